/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * From scores to a CSV. Scenes are resampled, the same ones for all settings, so that a difference of two
 * settings is paired and its interval is narrow. A saving is worth something when it is right more often than
 * the trivial savers *at the same measured cost*: there the accuracy of a saver is drawn as straight lines
 * between its settings, and what is compared is the point of the line at the cost of the saving.
 */
#include "bench/sweep.h"

#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_RESAMPLES = 1000, MAX_POINTS = 16 };
enum axis { AXIS_FRAME, AXIS_ASK, AXIS_KV, N_AXES };
static const char *const axis_name[] = {"frame ms", "question ms", "KV bytes"};
/* What each kind is there to save. */
static const uint32_t axes_of[] = {[VL_SWEEP_ARRIVAL] = 1 << AXIS_FRAME | 1 << AXIS_ASK | 1 << AXIS_KV,
                                   [VL_SWEEP_QUESTION] = 1 << AXIS_ASK,
                                   [VL_SWEEP_POLICY] = 1 << AXIS_ASK | 1 << AXIS_KV};
/* What must be beaten: the trivial reducers, and of policies the plain window. */
static const struct {
    const char *name;
    uint32_t axes;
} savers[] = {{"uniform", 7}, {"resolution", 7}, {"sink_window", 1 << AXIS_KV}};

bool vl_sweep_is_saver(const char *name)
{
    for (size_t k = 0; k < sizeof(savers) / sizeof(savers[0]); k++)
        if (!strcmp(savers[k].name, name))
            return true;
    return false;
}

struct report {
    const struct vl_sweep_result *r;
    FILE *out;
    uint32_t *draw; /* [N_RESAMPLES, n_scenes] */
    double *boot;   /* [n_settings, VL_SWEEP_MARKS, N_RESAMPLES] */
};

int vl_sweep_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- resampling ---- */

static bool is_percent(int mark)
{
    return mark <= VL_SWEEP_CAPTIONS || mark >= VL_SWEEP_CATEGORY;
}

/* The quotient over scenes, each as often as it was drawn; draw NULL: once. */
static double quotient(const struct vl_sweep_result *r, uint32_t setting, int mark, const uint32_t *draw)
{
    const struct vl_sweep_score *s = &r->score[setting * (size_t)r->n_scenes];
    double sum = 0, of = 0;
    for (uint32_t i = 0; i < r->n_scenes; i++) {
        const uint32_t k = draw ? draw[i] : i;
        sum += s[k].sum[mark];
        of += s[k].of[mark];
    }
    return (is_percent(mark) ? 100 : 1) * sum / of; /* NaN: was not asked */
}

static double *boot_of(const struct report *p, uint32_t setting, int mark)
{
    return p->boot + (setting * (size_t)VL_SWEEP_MARKS + (size_t)mark) * N_RESAMPLES;
}

static void resample(struct report *p)
{
    const struct vl_sweep_result *r = p->r;
    uint64_t rng = 1;
    p->draw = calloc((size_t)N_RESAMPLES * r->n_scenes, sizeof(*p->draw));
    p->boot = calloc((size_t)r->n_settings * VL_SWEEP_MARKS * N_RESAMPLES, sizeof(*p->boot));
    if (!p->draw || !p->boot)
        vl_feed_die("no memory to resample %u scenes", r->n_scenes);
    for (size_t i = 0; i < (size_t)N_RESAMPLES * r->n_scenes; i++)
        p->draw[i] = (uint32_t)(vl_random_u64(&rng) % r->n_scenes);
    for (uint32_t s = 0; s < r->n_settings; s++)
        for (int m = 0; m < VL_SWEEP_MARKS; m++)
            for (size_t b = 0; b < N_RESAMPLES; b++)
                boot_of(p, s, m)[b] = quotient(r, s, m, p->draw + b * r->n_scenes);
}

/* The middle 95 % of what is a number in v [N_RESAMPLES]; v is left alone. */
static void interval(const double *v, double *ret_low, double *ret_high)
{
    double sorted[N_RESAMPLES];
    uint32_t n = 0;
    for (int b = 0; b < N_RESAMPLES; b++)
        if (!isnan(v[b]))
            sorted[n++] = v[b];
    qsort(sorted, n, sizeof(*sorted), vl_sweep_by_value);
    *ret_low = n ? sorted[n / 40] : NAN;
    *ret_high = n ? sorted[n - 1 - n / 40] : NAN;
}

/* ---- rows ---- */

static void put(FILE *out, double v)
{
    if (isnan(v))
        (void)fputc(',', out);
    else
        (void)fprintf(out, ",%.6g", v);
}

struct row {
    const char *metric;
    double n, value, low, high, difference[3]; /* of value to the plain setting's, low, high */
};

static void write_row(const struct report *p, uint32_t setting, const struct row *row)
{
    static const char *const kind[] = {"none", "arrival", "question", "policy"};
    const struct vl_sweep_setting *s = &p->r->setting[setting];
    (void)fprintf(p->out, "%s,%s,%u,%s", kind[s->kind], s->name, s->percent, row->metric);
    const double v[] = {
        row->n, row->value, row->low, row->high, row->difference[0], row->difference[1], row->difference[2]};
    for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++)
        put(p->out, v[i]);
    (void)fputc('\n', p->out);
}

static const char *mark_name(int mark)
{
    static const char *const name[] = {"answers",         "answers: top",   "answers: middle",
                                       "answers: bottom", "captions",       "false captions a minute",
                                       "KV bytes",        "tokens a frame", "frames skipped %"};
    _Static_assert(sizeof(name) / sizeof(name[0]) == VL_SWEEP_CATEGORY, "a name for each mark");
    return mark < VL_SWEEP_CATEGORY ? name[mark] : vl_quiz_category_name(mark - VL_SWEEP_CATEGORY);
}

static double sum_of(const struct vl_sweep_result *r, uint32_t setting, int mark)
{
    double n = 0;
    for (uint32_t i = 0; i < r->n_scenes; i++)
        n += r->score[setting * (size_t)r->n_scenes + i].of[mark];
    return n;
}

static void write_mark(const struct report *p, uint32_t setting, int mark)
{
    const double *own = boot_of(p, setting, mark), *plain = boot_of(p, 0, mark);
    double difference[N_RESAMPLES];
    struct row row = {.metric = mark_name(mark), .n = sum_of(p->r, setting, mark)};
    row.value = quotient(p->r, setting, mark, NULL);
    interval(own, &row.low, &row.high);
    for (int b = 0; b < N_RESAMPLES; b++)
        difference[b] = own[b] - plain[b];
    row.difference[0] = row.value - quotient(p->r, 0, mark, NULL);
    interval(difference, &row.difference[1], &row.difference[2]);
    write_row(p, setting, &row);
}

static void write_time(const struct report *p, uint32_t setting)
{
    static const char *const name[] = {"frame ms", "encode ms", "prefill ms", "decode ms", "question ms"},
                             *const ratio[] = {"frame ms / none", "encode ms / none", "prefill ms / none",
                                               "decode ms / none", "question ms / none"};
    _Static_assert(sizeof(name) / sizeof(name[0]) == VL_SWEEP_TIMES, "a name for each time");
    const struct vl_sweep_timing *t = &p->r->timing[setting];
    for (int i = 0; i < VL_SWEEP_TIMES; i++) {
        if (!t->n[i])
            continue;
        const double n = t->n[i], none = NAN;
        write_row(p, setting, &(struct row){name[i], n, t->ms[i], none, none, {none, none, none}});
        write_row(p, setting,
                  &(struct row){ratio[i],
                                n,
                                t->ms[i] / t->plain_ms[i],
                                t->low_ratio[i],
                                t->high_ratio[i],
                                {none, none, none}});
    }
}

/* ---- at equal cost ---- */

/* In ratios of the plain setting for time, since that is what was measured; NaN: was not. */
static double cost(const struct report *p, uint32_t setting, enum axis a)
{
    const struct vl_sweep_timing *t = &p->r->timing[setting];
    const enum vl_sweep_time time = a == AXIS_FRAME ? VL_SWEEP_FRAME : VL_SWEEP_ASK;
    if (a == AXIS_KV)
        return quotient(p->r, setting, VL_SWEEP_KV, NULL);
    if (setting == 0)
        return t->n[time] ? 1 : NAN;
    return t->n[time] ? t->ms[time] / t->plain_ms[time] : NAN;
}

/* A saver's settings and the plain one, cheapest first. */
struct line {
    uint32_t n, setting[MAX_POINTS];
    double cost[MAX_POINTS];
};

static void draw_line(const struct report *p, const char *saver, enum axis a, struct line *ret)
{
    *ret = (struct line){0};
    for (uint32_t s = 0; s < p->r->n_settings && ret->n < MAX_POINTS; s++) {
        const double c = cost(p, s, a);
        /* towards a setting that sees nothing a line would be a straw man */
        if ((s && strcmp(p->r->setting[s].name, saver)) || isnan(c) ||
            quotient(p->r, s, VL_SWEEP_SKIPPED, NULL) > 50)
            continue;
        uint32_t at = ret->n++;
        for (; at > 0 && ret->cost[at - 1] > c; at--) {
            ret->cost[at] = ret->cost[at - 1];
            ret->setting[at] = ret->setting[at - 1];
        }
        ret->cost[at] = c;
        ret->setting[at] = s;
    }
}

/* The two points around a cost and the share of the second; outside the line its end. */
static void find_on_line(const struct line *l, double at, uint32_t ret_setting[2], double *ret_share)
{
    uint32_t k = 0;
    while (k < l->n && l->cost[k] < at)
        k++;
    const uint32_t before = k ? k - 1 : 0, behind = k < l->n ? k : l->n - 1;
    const double width = l->cost[behind] - l->cost[before];
    ret_setting[0] = l->setting[before];
    ret_setting[1] = l->setting[behind];
    *ret_share = width > 0 ? (at - l->cost[before]) / width : 0;
}

static void write_against(const struct report *p, uint32_t setting, int mark, const char *saver, enum axis a)
{
    struct line line;
    double share, difference[N_RESAMPLES], at = cost(p, setting, a);
    uint32_t s[2];
    char metric[96];
    draw_line(p, saver, a, &line);
    if (line.n < 2 || isnan(at)) /* no such saver, or nothing was timed */
        return;
    find_on_line(&line, at, s, &share);
    for (int b = 0; b < N_RESAMPLES; b++)
        difference[b] = boot_of(p, setting, mark)[b] - (1 - share) * boot_of(p, s[0], mark)[b] -
                        share * boot_of(p, s[1], mark)[b];
    (void)snprintf(metric, sizeof(metric), "%s less %s at equal %s", mark_name(mark), saver, axis_name[a]);
    struct row row = {.metric = metric,
                      .n = sum_of(p->r, setting, mark),
                      .value = quotient(p->r, setting, mark, NULL) -
                               (1 - share) * quotient(p->r, s[0], mark, NULL) -
                               share * quotient(p->r, s[1], mark, NULL),
                      .difference = {NAN, NAN, NAN}};
    interval(difference, &row.low, &row.high);
    write_row(p, setting, &row);
}

static void write_setting(const struct report *p, uint32_t setting)
{
    for (int m = 0; m < VL_SWEEP_MARKS; m++)
        write_mark(p, setting, m);
    write_time(p, setting);
    if (setting == 0)
        return;
    for (size_t k = 0; k < sizeof(savers) / sizeof(savers[0]); k++)
        for (int a = 0; a < N_AXES; a++) {
            if (!strcmp(savers[k].name, p->r->setting[setting].name) || !(savers[k].axes & 1u << a) ||
                !(axes_of[p->r->setting[setting].kind] & 1u << a))
                continue;
            write_against(p, setting, VL_SWEEP_ANSWERS, savers[k].name, (enum axis)a);
            write_against(p, setting, VL_SWEEP_CAPTIONS, savers[k].name, (enum axis)a);
        }
}

void vl_sweep_report(const struct vl_sweep_result *r, const char *path)
{
    struct report p = {.r = r, .out = fopen(path, "we")};
    if (!p.out)
        vl_feed_die("cannot write %s", path);
    resample(&p);
    (void)fprintf(p.out, "# %s\n", r->about);
    (void)fprintf(p.out,
                  "kind,name,percent,metric,n,value,low,high,difference,difference low,difference high\n");
    for (uint32_t s = 0; s < r->n_settings; s++)
        write_setting(&p, s);
    if (ferror(p.out) | (fclose(p.out) != 0))
        vl_feed_die("cannot write %s", path);
    free(p.draw);
    free(p.boot);
}
