/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The cpu backend's device: which kernels, which memory. Opened, used for alloc and closed by the owner
 * thread; ops run on it and on the workers of the exec. An op is complete when it returns, so sync and wait
 * have nothing to do. The trap: large blocks are huge pages, so many small tensors belong in one block. */
#include "kernels/cpu/cpu.h"
#include "kernels/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, CACHE_LINE = 64 };

/* spec "isa=<level>" or, without one, VLMD_ISA cap what the machine grants. */
static int choose_isa(const char *spec, unsigned *ret, struct vl_error *err)
{
    const char *from = "backend option 'isa'", *name = NULL;
    if (spec && *spec) {
        if (strncmp(spec, "isa=", 4) != 0)
            return vl_error_set(err, -EINVAL, "cpu: unknown option '%s'; there is isa=<level>", spec);
        name = spec + 4;
    } else {
        from = "VLMD_ISA";
        name = getenv("VLMD_ISA");
    }
    unsigned isa = vl_isa_detect();
    if (name && *name) {
        int level = vl_isa_parse(name);
        if (level < 0)
            return vl_error_set(err, -EINVAL, "%s: no level '%s'; this build has %s", from, name,
                                vl_isa_levels[1].name ? "c and avx2" : "c");
        isa &= (unsigned)level;
    }
    *ret = isa;
    return 0;
}

static void describe(struct vl_cpu *cpu)
{
    const struct vl_ukernels *k = &cpu->k;
    size_t size = sizeof(cpu->describe), n = (size_t)snprintf(cpu->describe, size, "cpu: matmul");
    for (int l = VL_LAYOUT_ROWS + 1; l < VL_LAYOUT_COUNT && n < size; l++)
        n +=
            (size_t)snprintf(cpu->describe + n, size - n, " %s %s%s", vl_layout_info((enum vl_layout)l)->name,
                             k->matmul[l].variant, l + 1 < VL_LAYOUT_COUNT ? "," : "");
    if (n < size)
        (void)snprintf(cpu->describe + n, size - n, "; attention %s, norm %s, act %s, rope %s, convert %s",
                       k->attn.variant, k->norm.variant, k->act.variant, k->rope.variant, k->convert.variant);
}

static int cpu_open(void **ret_device, const char *spec, struct vl_error *err)
{
    unsigned isa = 0;
    int r = choose_isa(spec, &isa, err);
    if (r < 0)
        return r;
    struct vl_cpu *cpu = calloc(1, sizeof(*cpu));
    if (!cpu)
        return vl_error_set(err, -ENOMEM, "cpu: out of memory");
    vl_ukernels_init(&cpu->k, isa);
    describe(cpu);
    *ret_device = cpu;
    return 0;
}

static void cpu_close(void *device)
{
    struct vl_cpu *cpu = device;
    if (!cpu)
        return;
    while (cpu->blocks) {
        struct vl_cpu_block *b = cpu->blocks;
        cpu->blocks = b->next;
        free(b->data);
        free(b);
    }
    free(cpu);
}

static int cpu_alloc(void *device, size_t n, bool host_pinned, void **ret)
{
    (void)host_pinned; /* all of it is host memory */
    struct vl_cpu *cpu = device;
    size_t align = n >= HUGE_PAGE ? HUGE_PAGE : CACHE_LINE;
    struct vl_cpu_block *b = malloc(sizeof(*b));
    if (!b || posix_memalign(&b->data, align, n ? n : 1) != 0) {
        free(b);
        return -ENOMEM;
    }
    if (n >= HUGE_PAGE)
        (void)madvise(b->data, n, MADV_HUGEPAGE); /* slower without, not wrong */
    b->next = cpu->blocks;
    cpu->blocks = b;
    *ret = b->data;
    return 0;
}

static void cpu_free(void *device, void *p)
{
    struct vl_cpu *cpu = device;
    for (struct vl_cpu_block **b = &cpu->blocks; p && *b; b = &(*b)->next)
        if ((*b)->data == p) {
            struct vl_cpu_block *gone = *b;
            *b = gone->next;
            free(gone->data);
            free(gone);
            return;
        }
}

static const char *cpu_describe(void *device)
{
    return ((struct vl_cpu *)device)->describe;
}

static size_t cpu_packed_size(void *device, const struct vl_tensor *stored)
{
    (void)device;
    size_t n;
    return vl_layout_size(stored, &n) < 0 ? 0 : n;
}

static int cpu_wait(struct vl_exec *x, struct vl_exec *on)
{
    (void)x;
    (void)on;
    return 0;
}

static int cpu_sync(struct vl_exec *x)
{
    (void)x;
    return 0;
}

const struct vl_backend_ops vl_backend_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .describe = cpu_describe,
    .packed_size = cpu_packed_size,
    .pack = vl_cpu_pack,
    .matmul = vl_cpu_matmul,
    .rms_norm = vl_cpu_rms_norm,
    .layer_norm = vl_cpu_layer_norm,
    .rope = vl_cpu_rope,
    .silu_mul = vl_cpu_silu_mul,
    .gelu = vl_cpu_gelu,
    .add = vl_cpu_add,
    .gather = vl_cpu_gather,
    .attention = vl_cpu_attention,
    .probe = vl_cpu_probe,
    .patchify = vl_cpu_patchify,
    .copy = vl_cpu_copy,
    .wait = cpu_wait,
    .sync = cpu_sync,
};
