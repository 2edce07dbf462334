/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_SCRIPTED_MODEL_H
#define VL_TESTS_SCRIPTED_MODEL_H
#include <stdatomic.h>
#include <stdbool.h>

/* A model that is linked in place of model/: it says what a script says, as a pure function of the tokens
 * that the cache shows it, so that a test of the engine knows each word beforehand. Ids are bytes, and 256
 * ends a reply. The first pixel of a frame is what the model sees of it, as the four visual tokens' value:
 *
 *   a frame      what is said
 *   even, 0      nothing: the end token at once
 *   13           logits that are not finite
 *   255          the encoder refuses the picture
 *   odd          "<sum of the values of all frames in view>", e.g. "<24>"
 *
 *   a question   the answer (its first letter decides)
 *   S...         as an odd frame
 *   T...         all text in view, the question included, to the letter, with () for []
 *   E...         letters without end and without a loop
 *   L...         "ab" without end
 *   N...         logits that are not finite
 *   C...         control characters among letters: "x" ESC "[1m" "y"
 *
 * Pictures of a question without a stream stand in front of it as "P", a view, "," and a second view; to S...
 * each view counts as a frame.
 *
 * The path decides how it loads: "good", "keen" (sees change), "blind" (no eyes), "cut" (-EIO after half of
 * its SCRIPTED_WEIGHTS bytes), "slow" (each of ten tensors waits for scripted_hold to be false), "missing"
 * (-ENOENT), anything else -EBADMSG. */
extern atomic_uint scripted_delay_us;    /* each layer and each run takes this long */
extern atomic_uint scripted_n_layers;    /* layers of the encoder that were computed */
extern atomic_uint scripted_n_runs;      /* runs of the decoder */
extern atomic_uint scripted_largest;     /* tokens of the largest run */
extern atomic_bool scripted_mixed;       /* a run came between two layers of one frame */
extern atomic_int scripted_encode_fails; /* this many encodes end in -EIO */
extern atomic_bool scripted_hold;
/* Of a keen one: the values of the frames that were begun, each with that of the look before, or -1. */
extern atomic_int scripted_looks[][2];
extern atomic_uint scripted_n_looks;
/* Once shut, each layer and each run waits until a test lets that one go, see engine_driver.h: what the
 * engine has done by then does not depend on how fast the machine is. */
enum scripted_gate { SCRIPTED_OPEN, SCRIPTED_SHUT, SCRIPTED_WAITS, SCRIPTED_GO };
extern atomic_int scripted_gate;
/* How far the clock of everything in the program is ahead of the machine's. Linked with
 * -Wl,--wrap=vl_clock_monotonic_ns. */
extern atomic_llong scripted_ahead_ns;
enum {
    SCRIPTED_FRAME_TOKENS = 4,
    SCRIPTED_LAYERS = 3,
    SCRIPTED_WINDOW = 4,
    SCRIPTED_VIEWS = 2,
    SCRIPTED_WEIGHTS = 1000,
    SCRIPTED_LOOKS = 64,     /* that are written down */
    SCRIPTED_LOOK_BYTES = 3, /* of one */
    SCRIPTED_CONTEXT = 4096
};
#endif
