/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Sits the exam under every saving. A scene is drawn once and shown to all settings in turn; engines differ
 * only by the pages they have, so there is one for each size of the cache. The trap: a process that has
 * threads must not fork, so the parent opens no engine before its children have ended.
 */
#include "bench/sweep.h"

#include "base/clock.h"
#include "base/random.h"
#include "engine/machine.h"
#include "kvcache/pool.h"
#include "tokenprune/reducer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Savers are what others are measured against, also where they cost little less than nothing saved: from 50
 * to 100 percent a straight line would be a guess. */
enum { BETWEEN = 75 };
enum { MAX_SETTINGS = 256, MAX_TIMED = 4096, ENGINES = 1 + VL_SWEEP_PERCENTS };

struct sweep {
    const struct vl_sweep_opts *o;
    struct vl_sweep_setting setting[MAX_SETTINGS];
    uint32_t n_settings, tokens_per_frame;
    char model[128];
    struct vl_sweep_score *score; /* [n_settings, n_scenes], shared with the children */
    size_t base_bytes;            /* of the pool beside a session's own share: forks, a spare page */
    size_t page_bytes;
    double window_bytes; /* the most that the plain setting held */
};

/* ---- settings ---- */

static void add(struct sweep *w, enum vl_sweep_kind kind, const char *name, uint32_t percent)
{
    if (w->n_settings == MAX_SETTINGS)
        vl_feed_die("more than %d settings", MAX_SETTINGS);
    struct vl_sweep_setting *s = &w->setting[w->n_settings++];
    uint32_t tokens = (w->tokens_per_frame * percent + 50) / 100;
    *s = (struct vl_sweep_setting){.kind = kind, .name = name, .percent = percent};
    if (kind == VL_SWEEP_ARRIVAL) {
        s->how.reducer = name;
        s->how.tokens = tokens ? tokens : 1;
    } else if (kind == VL_SWEEP_QUESTION) {
        s->how.question_reducer = name;
        s->how.question_tokens = tokens ? tokens : 1;
    } else if (kind == VL_SWEEP_POLICY) {
        s->how.policy = name;
    }
}

static void list_settings(struct sweep *w)
{
    add(w, VL_SWEEP_NONE, "none", 100);
    for (size_t i = 0; vl_reducers[i]; i++) {
        const char *name = vl_reducers[i]->name;
        const enum vl_sweep_kind kind = vl_reducers[i]->needs_question ? VL_SWEEP_QUESTION : VL_SWEEP_ARRIVAL;
        for (uint32_t p = 0; p < w->o->n_percents; p++)
            add(w, kind, name, w->o->percent[p]);
        if (kind == VL_SWEEP_ARRIVAL && vl_sweep_is_saver(name))
            add(w, kind, name, BETWEEN);
    }
    for (size_t i = 0; vl_kv_policies[i]; i++)
        for (uint32_t p = 0; p < w->o->n_percents; p++)
            add(w, VL_SWEEP_POLICY, vl_kv_policies[i]->name, w->o->percent[p]);
}

/* ---- engines, one for each size of the cache ---- */

static struct vl_engine_opts engine_opts(const struct sweep *w)
{
    return (struct vl_engine_opts){.model = w->o->model,
                                   .mmproj = w->o->mmproj,
                                   .backend = w->o->backend,
                                   .max_sessions = 2,
                                   .max_forks = 1,
                                   .n_workers = 1};
}

/* What the model says about itself, and what a pool holds beside a session's share. No thread is left. */
static void measure_pool(struct sweep *w)
{
    struct vl_engine_opts o = engine_opts(w);
    struct vl_machine m = {0};
    struct vl_kv_pool_stats st;
    struct vl_error err;
    vl_machine_fill_opts(&o);
    if (vl_machine_open(&m, &o, NULL, &err) < 0)
        vl_feed_die("%s", err.msg);
    vl_kv_pool_get_stats(m.pool, &st);
    w->tokens_per_frame = m.desc->frame_tokens;
    (void)snprintf(w->model, sizeof(w->model), "%s %s", m.desc->name, m.desc->quantization);
    w->page_bytes = vl_kv_geometry_bytes(&m.geometry, 0, 0, 1); /* a page of text */
    w->base_bytes = st.bytes_reserve + w->page_bytes;
    vl_machine_close(&m);
    if (!w->tokens_per_frame)
        vl_feed_die("%s has no eyes: --mmproj is missing", w->o->model);
}

/* engine [ENGINES], opened when first needed: the first has room for everything. */
static struct vl_feed *feed_of(const struct sweep *w, struct vl_feed *engine,
                               const struct vl_sweep_setting *s)
{
    size_t k = 0;
    struct vl_engine_opts o = engine_opts(w);
    if (s->kind == VL_SWEEP_POLICY) {
        while (w->o->percent[k] != s->percent)
            k++;
        o.kv_bytes = w->base_bytes + (size_t)(w->window_bytes * s->percent / 100);
        if (o.kv_bytes < w->base_bytes + w->page_bytes)
            o.kv_bytes = w->base_bytes + w->page_bytes;
        k++;
    }
    if (!engine[k].engine)
        vl_feed_open(&engine[k], &o);
    return &engine[k];
}

static void close_all(struct vl_feed *engine)
{
    for (int k = 0; k < ENGINES; k++)
        if (engine[k].engine)
            vl_feed_close(&engine[k]);
}

/* ---- a sitting ---- */

static void mark(struct vl_sweep_score *s, int m, double sum, double of)
{
    s->sum[m] += sum;
    s->of[m] += of;
}

static void mark_answer(struct vl_sweep_score *s, const struct vl_quiz_item *item, bool right)
{
    mark(s, VL_SWEEP_CATEGORY + item->category, right, 1);
    if (item->category == VL_QUIZ_UNKNOWN) /* right without a picture */
        return;
    mark(s, VL_SWEEP_ANSWERS, right, 1);
    if (item->about_id)
        mark(s, VL_SWEEP_TOP + vl_world_place(item->about_x, item->about_y) / 3, right, 1);
}

static void mark_frame(struct vl_sweep_score *s, const struct vl_feed *f, const struct vl_exam_second *now)
{
    mark(s, VL_SWEEP_SKIPPED, 100.0 * f->skipped, 1);
    if (now->caption[0])
        mark(s, VL_SWEEP_CAPTIONS, vl_quiz_same_text(f->caption, now->caption), 1);
    mark(s, VL_SWEEP_FALSE, 60.0 * (!now->caption[0] && f->caption[0]), 1);
    mark(s, VL_SWEEP_KV, (double)f->stats.kv_bytes, 1);
    if ((double)f->stats.kv_bytes > s->most_bytes)
        s->most_bytes = (double)f->stats.kv_bytes;
}

static void sit(const struct sweep *w, struct vl_feed *f, const struct vl_sweep_setting *setting,
                const struct vl_exam *e, struct vl_sweep_score *score)
{
    vl_exam_begin(f, &setting->how);
    for (uint32_t s = 0; s < e->n_seconds; s++) {
        const struct vl_exam_second *now = &e->second[s];
        const uint64_t n_before = f->stats.n_visual_tokens;
        vl_exam_show(f, e, s);
        mark_frame(score, f, now);
        if (setting->kind != VL_SWEEP_QUESTION)
            mark(score, VL_SWEEP_TOKENS, (double)(f->stats.n_visual_tokens - n_before), 1);
        for (int c = 0; c < VL_QUIZ_N_CATEGORIES; c++) {
            if (!now->asked[c])
                continue;
            mark_answer(score, &now->item[c], vl_exam_ask(f, &setting->how, &now->item[c]));
            if (setting->kind == VL_SWEEP_QUESTION)
                mark(score, VL_SWEEP_TOKENS,
                     w->tokens_per_frame - (double)f->turn.n_pruned / f->stats.window_frames, 1);
        }
    }
}

/* ---- first pass: right and wrong ---- */

static void draw(const struct sweep *w, uint32_t index, struct vl_exam *ret)
{
    vl_exam_draw(ret, w->o->first + index, w->o->event_rate, false);
    if (w->o->n_seconds && w->o->n_seconds < ret->n_seconds)
        ret->n_seconds = w->o->n_seconds;
}

/* Every n_jobs-th scene, by settings [from, to). In a child. */
static void sit_share(const struct sweep *w, uint32_t job, uint32_t from, uint32_t to)
{
    static struct vl_feed engine[ENGINES];
    for (uint32_t i = job; i < w->o->n_scenes; i += w->o->n_jobs) {
        struct vl_exam e;
        draw(w, i, &e);
        for (uint32_t k = from; k < to; k++)
            sit(w, feed_of(w, engine, &w->setting[k]), &w->setting[k], &e,
                &w->score[k * (size_t)w->o->n_scenes + i]);
        vl_exam_done(&e);
        (void)fprintf(stderr, "sweep: scene %u of %u, %u setting%s\n", i + 1, w->o->n_scenes, to - from,
                      to - from > 1 ? "s" : "");
    }
    close_all(engine);
}

static void sit_all(const struct sweep *w, uint32_t from, uint32_t to)
{
    bool failed = false;
    (void)fflush(NULL);
    for (uint32_t job = 0; job < w->o->n_jobs; job++) {
        pid_t pid = fork();
        if (pid < 0)
            vl_feed_die("cannot start a process");
        if (pid == 0) {
            sit_share(w, job, from, to);
            _exit(0);
        }
    }
    for (uint32_t job = 0; job < w->o->n_jobs; job++) {
        int status;
        failed |= wait(&status) < 0 || status != 0;
    }
    if (failed)
        vl_feed_die("a process of the sweep failed; what it said is above");
}

static void find_window_bytes(struct sweep *w)
{
    for (uint32_t i = 0; i < w->o->n_scenes; i++)
        if (w->score[i].most_bytes > w->window_bytes)
            w->window_bytes = w->score[i].most_bytes;
}

/* ---- second pass: time ---- */

/* In pairs: the plain setting's, this one's. */
struct samples {
    double ms[2][VL_SWEEP_TIMES][MAX_TIMED];
    uint32_t n[VL_SWEEP_TIMES];
};

static void sample(struct samples *s, enum vl_sweep_time t, int64_t plain_ns, int64_t ns)
{
    if (s->n[t] == MAX_TIMED)
        return;
    s->ms[0][t][s->n[t]] = (double)plain_ns / 1e6;
    s->ms[1][t][s->n[t]++] = (double)ns / 1e6;
}

/* The two take turns in going first. */
static void time_frame(struct samples *s, struct vl_feed *const feed[2], const struct vl_exam *e,
                       uint32_t second)
{
    for (uint32_t k = 0; k < 2; k++)
        vl_exam_show(feed[(second + k) % 2], e, second);
    const struct vl_feed *a = feed[0], *b = feed[1];
    if (b->skipped) /* costs nothing and is worth nothing */
        return;
    sample(s, VL_SWEEP_FRAME, a->cpu_ns, b->cpu_ns);
    sample(s, VL_SWEEP_ENCODE, a->stats.encode_ns, b->stats.encode_ns);
    sample(s, VL_SWEEP_PREFILL, a->stats.prefill_ns, b->stats.prefill_ns);
    sample(s, VL_SWEEP_DECODE, a->stats.decode_ns, b->stats.decode_ns);
}

static void time_ask(struct samples *s, struct vl_feed *const feed[2],
                     const struct vl_sweep_setting *const setting[2], const struct vl_quiz_item *item)
{
    for (int k = 0; k < 2; k++) {
        const int which = (item->category + k) % 2;
        (void)vl_exam_ask(feed[which], &setting[which]->how, item);
    }
    if (feed[1]->status == VL_TURN_OK)
        sample(s, VL_SWEEP_ASK, feed[0]->cpu_ns, feed[1]->cpu_ns);
}

static void time_scene(struct samples *s, struct vl_feed *const feed[2],
                       const struct vl_sweep_setting *const setting[2], const struct vl_exam *e)
{
    vl_exam_begin(feed[0], &setting[0]->how);
    vl_exam_begin(feed[1], &setting[1]->how);
    for (uint32_t i = 0; i < e->n_seconds; i++) {
        time_frame(s, feed, e, i);
        for (int c = 0; c < VL_QUIZ_N_CATEGORIES; c++)
            if (e->second[i].asked[c])
                time_ask(s, feed, setting, &e->second[i].item[c]);
    }
}

static double median(const double *v, uint32_t n, double *work)
{
    memcpy(work, v, n * sizeof(*v));
    qsort(work, n, sizeof(*work), vl_sweep_by_value);
    return n ? work[n / 2] : 0;
}

/* The interval of the ratio, from resampled pairs. */
static void find_ratio(const double *ms, const double *plain, uint32_t n, double *ret_low, double *ret_high)
{
    enum { N_RESAMPLES = 400 };
    *ret_low = *ret_high = NAN;
    if (n == 0)
        return;
    static double a[MAX_TIMED], b[MAX_TIMED], work[MAX_TIMED];
    double ratio[N_RESAMPLES];
    uint64_t rng = 1;
    for (int r = 0; r < N_RESAMPLES; r++) {
        for (uint32_t i = 0; i < n; i++) {
            uint32_t k = (uint32_t)(vl_random_u64(&rng) % n);
            a[i] = ms[k];
            b[i] = plain[k];
        }
        ratio[r] = median(a, n, work) / median(b, n, work);
    }
    qsort(ratio, N_RESAMPLES, sizeof(*ratio), vl_sweep_by_value);
    *ret_low = ratio[N_RESAMPLES / 40];
    *ret_high = ratio[N_RESAMPLES - 1 - N_RESAMPLES / 40];
}

static void time_setting(const struct sweep *w, struct vl_feed *plain, struct vl_feed *engine,
                         const struct vl_sweep_setting *setting, const struct vl_exam *exam, uint32_t n_exams,
                         struct vl_sweep_timing *ret)
{
    static struct samples s;
    static double work[MAX_TIMED];
    const struct vl_sweep_setting *const both[2] = {&w->setting[0], setting};
    struct vl_feed *const feed[2] = {plain, feed_of(w, engine, setting)};
    memset(s.n, 0, sizeof(s.n));
    for (uint32_t i = 0; i < n_exams; i++)
        time_scene(&s, feed, both, &exam[i]);
    for (int t = 0; t < VL_SWEEP_TIMES; t++) {
        ret->n[t] = s.n[t];
        ret->plain_ms[t] = median(s.ms[0][t], s.n[t], work);
        ret->ms[t] = median(s.ms[1][t], s.n[t], work);
        find_ratio(s.ms[1][t], s.ms[0][t], s.n[t], &ret->low_ratio[t], &ret->high_ratio[t]);
    }
}

static void time_all(const struct sweep *w, struct vl_sweep_timing *ret)
{
    static struct vl_feed plain, engine[ENGINES];
    const uint32_t n = w->o->n_timed < w->o->n_scenes ? w->o->n_timed : w->o->n_scenes;
    struct vl_engine_opts o = engine_opts(w);
    struct vl_exam *exam = calloc(n ? n : 1, sizeof(*exam));
    if (!exam)
        vl_feed_die("no memory for %u scenes", n);
    for (uint32_t i = 0; i < n; i++)
        draw(w, i, &exam[i]);
    vl_feed_open(&plain, &o);
    for (uint32_t k = 0; k < w->n_settings && n; k++) {
        (void)fprintf(stderr, "sweep: time of %s at %u %%\n", w->setting[k].name, w->setting[k].percent);
        time_setting(w, &plain, engine, &w->setting[k], exam, n, &ret[k]);
    }
    vl_feed_close(&plain);
    close_all(engine);
    for (uint32_t i = 0; i < n; i++)
        vl_exam_done(&exam[i]);
    free(exam);
}

/* ---- all of it ---- */

void vl_sweep(const struct vl_sweep_opts *opts)
{
    static struct sweep w;
    struct vl_sweep_opts o = *opts;
    char about[512];
    if (!o.n_seconds || o.n_seconds > VL_QUIZ_EXAM_SECONDS)
        o.n_seconds = VL_QUIZ_EXAM_SECONDS;
    if (!o.n_jobs)
        o.n_jobs = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    if (!o.n_scenes)
        vl_feed_die("--scenes 0: there is nothing to measure");
    w = (struct sweep){.o = &o};
    measure_pool(&w);
    list_settings(&w);
    size_t n_scores = w.n_settings * (size_t)o.n_scenes;
    w.score =
        mmap(NULL, n_scores * sizeof(*w.score), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct vl_sweep_timing *timing = calloc(w.n_settings, sizeof(*timing));
    if (w.score == MAP_FAILED || !timing)
        vl_feed_die("no memory for %zu scores", n_scores);
    sit_all(&w, 0, 1);
    find_window_bytes(&w);
    sit_all(&w, 1, w.n_settings);
    time_all(&w, timing);
    (void)snprintf(
        about, sizeof(about),
        "%s, %u tokens a frame; %u scenes of %u s from %u on, event rate %.2f; time on %u of them, "
        "one thread; window %.0f bytes",
        w.model, w.tokens_per_frame, o.n_scenes, o.n_seconds, o.first, (double)o.event_rate, o.n_timed,
        w.window_bytes);
    vl_sweep_report(&(struct vl_sweep_result){w.setting, w.score, timing, w.n_settings, o.n_scenes, about},
                    o.csv);
    free(timing);
    (void)munmap(w.score, n_scores * sizeof(*w.score));
}
