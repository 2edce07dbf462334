/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_GST_FORMATS_H
#define VL_PIPELINES_GST_FORMATS_H
#include "base/frame.h"

#include <gst/gst.h>
#include <stdbool.h>

/* What vlmd-ingest reads, as two tables: containers and codecs. Nothing is plugged by rank: what is not here
 * is not read. */
struct vl_gst_codec {
    const char *type;     /* media type of the caps */
    int version;          /* of MPEG (12: 1 or 2), DivX or MS-MPEG4; 0: not asked */
    const char *parser;   /* NULL: none is needed, or none is there */
    const char *parsed;   /* caps the decoders want from the parser, NULL: any */
    const char *decoders; /* names in order of preference, by spaces; "": raw pictures */
};
const char *vl_gst_demuxer_for(const GstCaps *caps); /* element name, or NULL */
const struct vl_gst_codec *vl_gst_codec_for(const GstCaps *caps);
GstElement *
vl_gst_make_decoder(const struct vl_gst_codec *c); /* the first that is installed, or NULL; floating */

/* A frame of a buffer: planes are borrowed from the mapping until vl_gst_unmap. False: not a picture we can
 * pass on. */
struct vl_gst_mapped;
struct vl_gst_mapped *vl_gst_map(GstSample *sample, struct vl_frame *ret);
void vl_gst_unmap(struct vl_gst_mapped *m);
#endif
