/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * It does not grow: an hour of the drawn world at the model's pace, with a question every ten seconds. One
 * CSV line a tenth: private memory, KV bytes, window, work a frame, latency of a question
 * (median). The last tenth against the second: memory at most 2 % more, KV bytes at most a page more, latency
 * at most 10 % more; else the exit status is 1. The first tenth is left out: there the window fills.
 *
 *     build/bench/bench_stream --model data/vlmd-world-text.gguf --mmproj data/vlmd-world-mmproj.gguf
 *
 * --policy and --kv-bytes: the same for another window, in so much memory for all pages.
 */
#include "base/clock.h"
#include "bench/feed.h"
#include "pipelines/world.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum {
    TENTHS = 10,
    WIDTH = 320,
    HEIGHT = 180,
    ASK_EVERY = 10,
    MAX_ASKED = 4096,
    MAX_SECONDS = 36000,
    MAX_TOKENS = 24
};

struct tenth {
    uint64_t private_bytes, kv_bytes;
    uint32_t window_tokens, window_frames, n_captions;
    int64_t latency_ns, encode_ns, prefill_ns, decode_ns;
};

static int64_t kv_page; /* the smallest step in which the cache was seen to change */

/* Bytes that this process alone has written to: what leaks show up in. */
static uint64_t private_dirty(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    unsigned long long kib = 0;
    if (!f)
        vl_feed_die("no /proc/self/smaps_rollup");
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "Private_Dirty: %llu kB", &kib) == 1)
            break;
    (void)fclose(f);
    return kib * 1024;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t median(int64_t *v, uint32_t n)
{
    qsort(v, n, sizeof(*v), by_value);
    return n ? v[n / 2] : 0;
}

static void show_second(struct vl_feed *f, struct vl_world *world, uint32_t second, struct tenth *t)
{
    static uint8_t rgb[WIDTH * HEIGHT * 3];
    struct vl_world_scene picture;
    if (second)
        vl_world_step(world);
    vl_world_scene_at(world, 1, &picture);
    if (vl_world_draw(&picture, WIDTH, HEIGHT, (size_t)WIDTH * 3, rgb, NULL) < 0)
        vl_feed_die("cannot draw second %u", second);
    uint64_t kv_before = f->stats.kv_bytes;
    vl_feed_show(f, rgb, WIDTH, HEIGHT, second * VL_NSEC_PER_SEC);
    t->encode_ns += f->stats.encode_ns;
    t->prefill_ns += f->stats.prefill_ns;
    t->decode_ns += f->stats.decode_ns;
    t->n_captions += f->caption[0] != '\0';
    int64_t step = llabs((int64_t)f->stats.kv_bytes - (int64_t)kv_before);
    if (step && (!kv_page || step < kv_page))
        kv_page = step;
}

static void run_tenth(struct vl_feed *f, struct vl_world *world, uint32_t first, uint32_t n, struct tenth *t)
{
    static int64_t latency[MAX_ASKED], kv_bytes[MAX_SECONDS];
    uint32_t n_asked = 0;
    for (uint32_t s = first; s < first + n; s++) {
        show_second(f, world, s, t);
        kv_bytes[s - first] = (int64_t)f->stats.kv_bytes;
        if (s % ASK_EVERY || n_asked == MAX_ASKED)
            continue;
        vl_feed_ask(f, "How many shapes are there?", MAX_TOKENS);
        if (f->status != VL_TURN_OK)
            vl_feed_die("second %u: the question was not answered (%d)", s, (int)f->status);
        latency[n_asked++] = f->turn.total_ns;
    }
    t->private_bytes = private_dirty();
    t->window_tokens = f->stats.window_tokens;
    t->window_frames = f->stats.window_frames;
    t->kv_bytes = (uint64_t)median(kv_bytes, n);
    t->latency_ns = median(latency, n_asked);
    (void)printf("%u,%llu,%llu,%u,%u,%u,%.3f,%.3f,%.3f,%.3f\n", first + n,
                 (unsigned long long)t->private_bytes, (unsigned long long)t->kv_bytes, t->window_tokens,
                 t->window_frames, t->n_captions, (double)t->encode_ns / n / 1e6,
                 (double)t->prefill_ns / n / 1e6, (double)t->decode_ns / n / 1e6,
                 (double)t->latency_ns / 1e6);
    (void)fflush(stdout);
}

static bool verdict(const struct tenth *second, const struct tenth *last)
{
    double memory = (double)last->private_bytes / (double)second->private_bytes - 1;
    double latency = (double)last->latency_ns / (double)second->latency_ns - 1;
    int64_t kv = (int64_t)last->kv_bytes - (int64_t)second->kv_bytes;
    bool good = memory <= 0.02 && kv <= kv_page && latency <= 0.10;
    (void)printf(
        "# last tenth against second: private memory %+.2f %%, KV %+lld bytes, question %+.1f %%: %s\n",
        100 * memory, (long long)kv, 100 * latency, good ? "it does not grow" : "IT GROWS");
    return good;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"model", required_argument, NULL, 'm'},    {"mmproj", required_argument, NULL, 'p'},
        {"seconds", required_argument, NULL, 's'},  {"policy", required_argument, NULL, 'k'},
        {"kv-bytes", required_argument, NULL, 'b'}, {NULL, 0, NULL, 0}};
    struct vl_engine_opts o = {.max_sessions = 1, .max_forks = 1};
    struct vl_error err = {0, ""};
    char policy[64] = "sink_window";
    vl_auto(vl_params) params = NULL;
    uint32_t seconds = 3600;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) >= 0;)
        switch (c) {
        case 'm':
            o.model = optarg;
            break;
        case 'p':
            o.mmproj = optarg;
            break;
        case 's':
            seconds = (uint32_t)strtoul(optarg, NULL, 0);
            break;
        case 'k':
            if (vl_params_parse(optarg, policy, sizeof(policy), &params, &err) < 0)
                vl_feed_die("--policy: %s", err.msg);
            break;
        case 'b':
            o.kv_bytes = strtoull(optarg, NULL, 0);
            break;
        default:
            return 2;
        }
    if (!o.model || !o.mmproj || seconds < 100 || seconds / TENTHS > MAX_SECONDS)
        vl_feed_die("usage: bench_stream --model FILE --mmproj FILE [--seconds N, at least 100] "
                    "[--policy NAME:KEY=VALUE,...] [--kv-bytes N]");
    static struct vl_feed f;
    struct vl_world_options w = vl_world_default_options(1);
    struct vl_world *world;
    if (vl_world_open(&w, &world) < 0)
        vl_feed_die("cannot open a world");
    vl_feed_open(&f, &o);
    vl_feed_begin(&f, &(struct vl_session_opts){.max_caption_tokens = MAX_TOKENS,
                                                .captions = true,
                                                .policy = policy,
                                                .policy_params = params,
                                                .sampling = VL_SAMPLING_GREEDY});
    struct tenth t[TENTHS] = {0};
    (void)printf("second,private_bytes,kv_bytes,window_tokens,window_frames,captions,encode_ms,prefill_ms,"
                 "decode_ms,question_ms\n");
    for (uint32_t i = 0; i < TENTHS; i++)
        run_tenth(&f, world, i * (seconds / TENTHS), seconds / TENTHS, &t[i]);
    bool good = verdict(&t[1], &t[TENTHS - 1]);
    vl_feed_close(&f);
    (void)vl_world_close(world);
    return good ? 0 : 1;
}
