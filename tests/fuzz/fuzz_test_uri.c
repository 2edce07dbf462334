/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The URI of a test source as any caller of the bus may write it, and where a stream goes on. Every refusal
 * must say why, and what was half opened must close. It is opened only: its faults would stop or end this
 * process. */
#include "base/clock.h"
#include "pipelines/source.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char scheme[] = "test:?";
    const struct vl_source_ops *ops = vl_source_find("test");
    struct vl_source_limits limits = {.max_side = 256, .max_pixels = 1 << 16};
    struct vl_error err = {0};
    if (size < 1)
        return 0;
    limits.start_ns = data[0] * VL_NSEC_PER_SEC / 2; /* the first byte; the rest follows the scheme */
    char *uri = malloc(sizeof(scheme) + size);
    void *source = calloc(1, ops->state_size);
    if (uri && source) {
        memcpy(uri, scheme, sizeof(scheme) - 1);
        memcpy(uri + sizeof(scheme) - 1, data + 1, size - 1);
        uri[sizeof(scheme) - 1 + size - 1] = '\0';
        int r = ops->open(source, uri, -1, &limits, &err);
        FUZZ_CHECK(r == 0 || r == -ENOMEM || (r < 0 && err.code == r && err.msg[0]));
        ops->close(source);
    }
    free(source);
    free(uri);
    return 0;
}
