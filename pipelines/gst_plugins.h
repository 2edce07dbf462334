/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_GST_PLUGINS_H
#define VL_PIPELINES_GST_PLUGINS_H
#include "base/error.h"

/* Sets GStreamer up with the plugins of a fixed list and no others: no registry file, no cache, no scanner,
 * no search path. Each is loaded now, so that nothing is opened later. A plugin that is not installed is left
 * out; what needs it is refused by name when it comes. Once, before other threads. -ENOSYS: not even the core
 * elements are there. */
int vl_gst_load_plugins(struct vl_error *err);
#endif
