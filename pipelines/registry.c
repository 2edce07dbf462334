/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The sources of this build, one line each. */
#include "pipelines/source.h"

#include <string.h>

extern const struct vl_source_ops vl_source_test;
#ifdef VL_HAVE_GSTREAMER
extern const struct vl_source_ops vl_source_file;
#endif

const struct vl_source_ops *const vl_sources[] = {
    &vl_source_test,
#ifdef VL_HAVE_GSTREAMER
    &vl_source_file,
#endif
    NULL,
};

const struct vl_source_ops *vl_source_find(const char *scheme)
{
    for (const struct vl_source_ops *const *s = vl_sources; *s; s++)
        if (!strcmp((*s)->scheme, scheme))
            return *s;
    return NULL;
}
