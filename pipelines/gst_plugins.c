/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The only GStreamer plugins this process ever has. A new container or codec starts here and in
 * gst_formats.c. */
#include "pipelines/gst_plugins.h"

#include <gst/gst.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const plugins[] = {"coreelements", "typefindfunctions", "app", "videoconvertscale",
                                      /* containers */
                                      "matroska", "isomp4", "mpegtsdemux", "mpegpsdemux", "avi", "flv",
                                      /* parsers, which tell the size of a picture before a decoder sees it */
                                      "videoparsersbad", "jpegformat",
                                      /* decoders */
                                      "libav", "openh264", "de265", "vpx", "aom", "mpeg2dec", "jpeg"};

int vl_gst_load_plugins(struct vl_error *err)
{
    /* ORC would generate code at run time, which confinement forbids; its C versions serve. */
    if (setenv("GST_REGISTRY_DISABLE", "yes", 1) < 0 || setenv("GST_REGISTRY_FORK", "no", 1) < 0 ||
        setenv("ORC_CODE", "backup", 1) < 0)
        return -errno;
    GError *e = NULL;
    if (!gst_init_check(NULL, NULL, &e)) {
        int r =
            vl_error_set(err, -ENOSYS, "GStreamer does not start: %s", e ? e->message : "no reason given");
        g_clear_error(&e);
        return r;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(plugins); i++) {
        char path[256];
        (void)g_snprintf(path, sizeof(path), "%s/libgst%s.so", VL_GST_PLUGINS_DIR, plugins[i]);
        GstPlugin *plugin = access(path, R_OK) < 0 ? NULL : gst_plugin_load_file(path, NULL);
        if (plugin)
            gst_object_unref(plugin);
        else if (i == 0)
            return vl_error_set(err, -ENOSYS, "GStreamer's core elements are not in %s", VL_GST_PLUGINS_DIR);
    }
    return 0;
}
