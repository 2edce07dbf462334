#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes a sample clip of the drawn world through a real codec: make_clip.py SEED SECONDS OUT.webm [WIDTH HEIGHT FPS]

Needs gst-launch-1.0 with vp8enc (gstreamer1.0-plugins-good). data/sample.webm was made with seed 13 and 40 seconds.
"""
import subprocess
import sys

import numpy as np

import world

seed, seconds, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
width, height, fps = (int(v) for v in sys.argv[4:7]) if len(sys.argv) > 4 else (640, 360, 10)
pipe = subprocess.Popen(
    ["gst-launch-1.0", "-q", "fdsrc", "fd=0", "!", "rawvideoparse", "format=rgb", f"width={width}", f"height={height}",
     f"framerate={fps}/1", "!", "videoconvert", "!", "vp8enc", "target-bitrate=350000", "keyframe-max-dist=40",
     "deadline=100000", "!", "webmmux", "!", "filesink", f"location={out}"], stdin=subprocess.PIPE)
options = dict(aspect=width / height, event_rate=0.45, n_start=2, noise=0.5, artefacts=0.0)
scenes = world.World(seed, **options)
truths = []
for second in range(seconds):
    truths.append(scenes.truth())
    # The picture at second s is that second's truth; those after it glide on to the next.
    for frame in range(fps):
        if frame == 1:
            scenes.step()
        rgb, _ = world.draw(scenes.scene(frame / fps if frame else 1.0), width, height)
        pipe.stdin.write(rgb.tobytes())
pipe.stdin.close()
truths = np.array(truths)
for second in range(1, seconds):
    print(f"{second // 60}:{second % 60:02d}", world.caption(truths, second) or "-")
sys.exit(pipe.wait())
