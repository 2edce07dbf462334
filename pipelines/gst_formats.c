/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Containers, codecs and pixels: the tables, and what their caps mean in our words. */
#include "pipelines/gst_formats.h"

#include <gst/video/video.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *type, *demuxer;
} containers[] = {
    {"video/x-matroska", "matroskademux"}, {"video/webm", "matroskademux"}, {"video/quicktime", "qtdemux"},
    {"application/x-3gp", "qtdemux"},      {"video/mpegts", "tsdemux"},     {"video/x-msvideo", "avidemux"},
    {"video/x-flv", "flvdemux"},
};

static const struct vl_gst_codec codecs[] = {
    {"video/x-h264", 0, "h264parse", "video/x-h264,alignment=au", "avdec_h264 openh264dec"},
    {"video/x-h265", 0, "h265parse", "video/x-h265,alignment=au", "avdec_h265 libde265dec"},
    {"video/x-vp8", 0, NULL, NULL, "vp8dec avdec_vp8"},
    {"video/x-vp9", 0, "vp9parse", NULL, "vp9dec avdec_vp9"},
    {"video/x-av1", 0, "av1parse", "video/x-av1,stream-format=obu-stream,alignment=tu", "av1dec"},
    {"video/mpeg", 12, "mpegvideoparse", NULL, "avdec_mpeg2video mpeg2dec"},
    {"video/mpeg", 4, "mpeg4videoparse", NULL, "avdec_mpeg4"},
    {"video/x-divx", 3, NULL, NULL, "avdec_msmpeg4"},
    {"video/x-divx", 0, "mpeg4videoparse", NULL, "avdec_mpeg4"},
    {"video/x-msmpeg", 43, NULL, NULL, "avdec_msmpeg4"},
    {"image/jpeg", 0, "jpegparse", NULL, "jpegdec avdec_mjpeg"},
    {"video/x-raw", 0, NULL, NULL, ""},
};

const char *vl_gst_demuxer_for(const GstCaps *caps)
{
    const GstStructure *s = gst_caps_get_structure(caps, 0);
    gboolean system = FALSE;
    if (gst_structure_has_name(s, "video/mpeg") && gst_structure_get_boolean(s, "systemstream", &system) &&
        system)
        return "mpegpsdemux";
    for (size_t i = 0; i < G_N_ELEMENTS(containers); i++)
        if (gst_structure_has_name(s, containers[i].type))
            return containers[i].demuxer;
    return NULL;
}

const struct vl_gst_codec *vl_gst_codec_for(const GstCaps *caps)
{
    const GstStructure *s = gst_caps_get_structure(caps, 0);
    gint version = 0; /* of the field its type has, if any */
    if (gst_structure_get_int(s, "mpegversion", &version) && version <= 2)
        version = 12;
    (void)gst_structure_get_int(s, "divxversion", &version);
    (void)gst_structure_get_int(s, "msmpegversion", &version);
    for (size_t i = 0; i < G_N_ELEMENTS(codecs); i++)
        if (gst_structure_has_name(s, codecs[i].type) &&
            (codecs[i].version == 0 || codecs[i].version == version))
            return &codecs[i];
    return NULL;
}

GstElement *vl_gst_make_decoder(const struct vl_gst_codec *c)
{
    char name[32];
    int used = 0;
    for (const char *at = c->decoders; sscanf(at, "%31s%n", name, &used) == 1; at += used) {
        GstElement *e = gst_element_factory_make(name, NULL);
        if (!e)
            continue;
        /* One thread: a stream is one picture a second, and memory is limited. */
        GParamSpec *p = g_object_class_find_property(G_OBJECT_GET_CLASS(e), "max-threads");
        if (p && p->value_type == G_TYPE_INT)
            g_object_set(e, "max-threads", 1, NULL);
        p = g_object_class_find_property(G_OBJECT_GET_CLASS(e), "threads");
        if (p && p->value_type == G_TYPE_UINT)
            g_object_set(e, "threads", 1u, NULL);
        return e;
    }
    return NULL;
}

struct vl_gst_mapped {
    GstVideoFrame frame;
};

static bool pixel_format(GstVideoFormat f, enum vl_pixfmt *ret)
{
    switch (f) {
    case GST_VIDEO_FORMAT_I420:
        *ret = VL_PIXFMT_I420;
        return true;
    case GST_VIDEO_FORMAT_NV12:
        *ret = VL_PIXFMT_NV12;
        return true;
    case GST_VIDEO_FORMAT_RGB:
        *ret = VL_PIXFMT_RGB24;
        return true;
    case GST_VIDEO_FORMAT_GRAY8:
        *ret = VL_PIXFMT_GRAY8;
        return true;
    default:
        return false;
    }
}

static uint8_t matrix(const GstVideoInfo *info)
{
    guint iso = gst_video_color_matrix_to_iso(info->colorimetry.matrix);
    return iso <= 14 ? (uint8_t)iso : VL_MATRIX_UNKNOWN;
}

struct vl_gst_mapped *vl_gst_map(GstSample *sample, struct vl_frame *ret)
{
    GstVideoInfo info;
    GstBuffer *buffer = gst_sample_get_buffer(sample);
    GstCaps *caps = gst_sample_get_caps(sample);
    enum vl_pixfmt format;
    if (!buffer || !caps || !gst_video_info_from_caps(&info, caps) ||
        !pixel_format(GST_VIDEO_INFO_FORMAT(&info), &format))
        return NULL;
    struct vl_gst_mapped *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    if (!gst_video_frame_map(&m->frame, &info, buffer, GST_MAP_READ)) {
        free(m);
        return NULL;
    }
    const GstVideoFrame *f = &m->frame;
    *ret = (struct vl_frame){
        .width = (uint32_t)GST_VIDEO_FRAME_WIDTH(f),
        .height = (uint32_t)GST_VIDEO_FRAME_HEIGHT(f),
        .format = format,
        .matrix = matrix(&info),
        .range = info.colorimetry.range == GST_VIDEO_COLOR_RANGE_0_255 ? VL_RANGE_FULL : VL_RANGE_LIMITED,
        .flags = GST_BUFFER_FLAG_IS_SET(buffer, GST_BUFFER_FLAG_CORRUPTED) ? VL_FRAME_CORRUPT : 0,
    };
    for (guint i = 0; i < GST_VIDEO_FRAME_N_PLANES(f) && i < 3; i++) {
        if (GST_VIDEO_FRAME_PLANE_STRIDE(f, i) <= 0) { /* upside down: nobody makes it, nobody tested it */
            vl_gst_unmap(m);
            return NULL;
        }
        ret->plane[i] = GST_VIDEO_FRAME_PLANE_DATA(f, i);
        ret->stride[i] = (uint32_t)GST_VIDEO_FRAME_PLANE_STRIDE(f, i);
    }
    return m;
}

void vl_gst_unmap(struct vl_gst_mapped *m)
{
    gst_video_frame_unmap(&m->frame);
    free(m);
}
