/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Pictures of any bytes through what reads their headers and drives their decoders; the first bytes choose
 * which. What comes out must be what the daemon takes: sealed, within the limits, every pixel there. What
 * does not must say why, and nothing may stay open. The libraries themselves are not instrumented: it is our
 * glue that is tried. */
#include "base/cleanup.h"
#include "pipelines/still.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>

static const struct vl_frame_limits frame_limits = {
    .max_side = 512, .max_in_flight = 1, .max_per_second = 1, .max_pixels = 1 << 15, .max_bytes = 1 << 20};

static void check_picture(struct vl_frame_packet *p, int memfd)
{
    struct vl_error err = {0};
    const int want = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    p->magic = VL_FRAME_PACKET_MAGIC;
    p->version = VL_FRAME_PACKET_VERSION;
    FUZZ_CHECK((fcntl(memfd, F_GET_SEALS) & want) == want);
    FUZZ_CHECK(lseek(memfd, 0, SEEK_END) == (off_t)p->size);
    FUZZ_CHECK(vl_frame_packet_check(p, &frame_limits, p->size, &err) == 0);
    const uint8_t *map = mmap(NULL, p->size, PROT_READ, MAP_SHARED, memfd, 0);
    FUZZ_CHECK(map != MAP_FAILED);
    volatile uint8_t sum = 0;
    for (uint32_t y = 0; y < p->height; y++)
        for (uint32_t x = 0; x < 3 * p->width; x++)
            sum = (uint8_t)(sum + map[p->offset[0] + (size_t)p->stride[0] * y + x]);
    FUZZ_CHECK(munmap((void *)(uintptr_t)map, p->size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct vl_still_limits limits = {.max_side = frame_limits.max_side,
                                           .want_side = size % 2 ? 8 : 0,
                                           .max_pixels = frame_limits.max_pixels,
                                           .max_bytes = 1 << 16};
    struct vl_frame_packet p;
    struct vl_error err = {0};
    int memfd = -1, lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);
    FUZZ_CHECK(lowest >= 0 && close(lowest) == 0);
    int r = vl_still_decode(data, size, &limits, &p, &memfd, &err);
    FUZZ_CHECK(r == 0 || (r < 0 && err.code == r && err.msg[0] && memfd < 0));
    FUZZ_CHECK(r == 0 || r == -ENOTSUP || r == -EMSGSIZE || r == -EBADMSG || r == -ENOMEM);
    if (r == 0)
        check_picture(&p, memfd);
    vl_closep(&memfd);
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC);
    FUZZ_CHECK(next == lowest);
    vl_closep(&next);
    return 0;
}
