/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The exam of the drawn world, sat by a model through the engine: scenes at the model's pace, a caption each
 * second, questions on forks. Prints one table: rows are categories, columns are aspects, and apart from them
 * what was asked about (shape, colour, place) triples that training never saw. With --blind the same exam is
 * sat with grey pictures: what is right then is guessing. --csv for machines; with --floors the exit status
 * is 1 when the table is below what is promised. --reducer, --policy and --tokens-per-frame sit it with
 * savings; a reducer that needs a question works on each question's fork. --sweep sits it with all savings
 * there are, see sweep.h.
 *
 *     build/bench/quality --model data/vlmd-world-text.gguf --mmproj data/vlmd-world-mmproj.gguf --scenes 300
 */
#include "base/clock.h"
#include "bench/exam.h"
#include "bench/sweep.h"
#include "tokenprune/reducer.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum { N_ASPECTS = 3, ALL = N_ASPECTS, HELD_OUT, N_COLUMNS, MAX_ROWS = 40 };

struct row {
    char name[32];
    uint32_t right[N_COLUMNS], asked[N_COLUMNS];
};
struct tally {
    struct row row[MAX_ROWS];
    uint32_t n_rows, n_seconds, n_false, n_missed, n_skipped, n_questions;
    int64_t encode_ns, prefill_ns, decode_ns, ask_ns;
};
struct options {
    const char *model, *mmproj, *backend;
    uint32_t first, n_scenes;
    float event_rate;
    bool blind, wrong, csv, floors, has_scenes;
    struct vl_exam_how how;
    struct vl_sweep_opts sweep;
};

static void count(struct tally *t, const char *name, int aspect, bool held_out, bool right)
{
    uint32_t i = 0;
    while (i < t->n_rows && strcmp(t->row[i].name, name))
        i++;
    if (i == MAX_ROWS)
        vl_feed_die("too many rows");
    if (i == t->n_rows)
        (void)snprintf(t->row[t->n_rows++].name, sizeof(t->row[i].name), "%s", name);
    const int column[3] = {aspect, ALL, HELD_OUT};
    for (int k = 0; k < (held_out ? 3 : 2); k++) {
        t->row[i].asked[column[k]]++;
        t->row[i].right[column[k]] += right;
    }
}

static void count_caption(struct tally *t, const struct vl_quiz_scene *scene,
                          const struct vl_world_truth *now, const char *said, const char *want)
{
    static const char *const kind[] = {"quiet", "appeared", "gone", "turned", "moves"};
    const struct vl_world_object *o = &now->event.object;
    t->n_seconds++;
    if (!want[0]) {
        t->n_false += said[0] != '\0';
        return;
    }
    char name[32];
    bool right = vl_quiz_same_text(said, want);
    bool held_out = vl_world_is_held_out(o->shape, o->colour, vl_world_place(o->x, o->y));
    (void)snprintf(name, sizeof(name), "caption: %s", kind[now->event.kind]);
    count(t, "caption", scene->aspect, held_out, right);
    count(t, name, scene->aspect, held_out, right);
    t->n_missed += said[0] == '\0';
}

static void count_answer(struct tally *t, const struct vl_quiz_scene *scene, const struct vl_quiz_item *item,
                         bool right)
{
    char name[32];
    const char *category = vl_quiz_category_name(item->category);
    count(t, category, scene->aspect, item->held_out, right);
    if (item->category == VL_QUIZ_MOTION) {
        (void)snprintf(name, sizeof(name), "%s: %s", category, item->moving ? "moving" : "still");
        count(t, name, scene->aspect, item->held_out, right);
    }
    if (item->seconds_back && item->changed) {
        (void)snprintf(name, sizeof(name), "%s: changed", category);
        count(t, name, scene->aspect, item->held_out, right);
    }
}

static void ask_all(struct vl_feed *f, const struct options *o, struct tally *t, const struct vl_exam *e,
                    uint32_t second)
{
    const struct vl_exam_second *now = &e->second[second];
    for (int c = 0; c < VL_QUIZ_N_CATEGORIES; c++) {
        if (!now->asked[c])
            continue;
        const struct vl_quiz_item *item = &now->item[c];
        bool right = vl_exam_ask(f, &o->how, item);
        count_answer(t, &e->scene, item, right);
        t->n_questions++;
        t->ask_ns += f->turn.total_ns;
        if (o->wrong && !right)
            (void)printf("wrong: %s scene %u second %u: '%s' '%s', right is '%s'\n",
                         vl_quiz_aspect_name(e->scene.aspect), e->index, second, item->question, f->answer,
                         item->answer);
    }
}

static void sit_scene(struct vl_feed *f, const struct options *o, struct tally *t, uint32_t index)
{
    struct vl_exam e;
    vl_exam_draw(&e, index, o->event_rate, o->blind);
    vl_exam_begin(f, &o->how);
    for (uint32_t s = 0; s < e.n_seconds; s++) {
        const struct vl_exam_second *now = &e.second[s];
        vl_exam_show(f, &e, s);
        count_caption(t, &e.scene, &now->truth, f->caption, now->caption);
        if (o->wrong && !vl_quiz_same_text(f->caption, now->caption))
            (void)printf("wrong: %s scene %u second %u: caption '%s', right is '%s'\n",
                         vl_quiz_aspect_name(e.scene.aspect), index, s, f->caption, now->caption);
        if (f->skipped) {
            t->n_skipped++;
        } else {
            t->encode_ns += f->stats.encode_ns;
            t->prefill_ns += f->stats.prefill_ns;
            t->decode_ns += f->stats.decode_ns;
        }
        ask_all(f, o, t, &e, s);
    }
    vl_exam_done(&e);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct row *)a)->name, ((const struct row *)b)->name);
}

static void print_cell(const struct row *r, int column, bool csv)
{
    uint32_t n = r->asked[column];
    if (csv)
        (void)printf(",%u,%u", r->right[column], n);
    else if (n)
        (void)printf(" %5.1f (%u) |", 100.0 * r->right[column] / n, n);
    else
        (void)printf(" - |");
}

static void print_table(struct tally *t, const struct options *o)
{
    static const int order[N_COLUMNS] = {ALL, 0, 1, 2, HELD_OUT};
    _Static_assert(N_ASPECTS == 3, "order names all columns");
    qsort(t->row, t->n_rows, sizeof(t->row[0]), by_name);
    (void)printf(o->csv ? "category" : "| |");
    for (int k = 0; k < N_COLUMNS; k++) {
        const char *name = order[k] == ALL        ? "all"
                           : order[k] == HELD_OUT ? "held out"
                                                  : vl_quiz_aspect_name(order[k]);
        (void)printf(o->csv ? ",%s right,%s asked" : " %s |", name, name);
    }
    (void)printf(o->csv ? "\n" : "\n|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < t->n_rows; i++) {
        (void)printf(o->csv ? "%s" : "| %s |", t->row[i].name);
        for (int k = 0; k < N_COLUMNS; k++)
            print_cell(&t->row[i], order[k], o->csv);
        (void)printf("\n");
    }
}

/* What the built-in model promises in its card, in all aspects together. */
static bool hold_floors(const struct tally *t)
{
    static const struct {
        const char *name;
        double percent;
    } floor[] = {{"shape", 95}, {"colour", 97},         {"where", 95},
                 {"count", 90}, {"motion: moving", 95}, {"caption", 90}};
    bool good = 60.0 * t->n_false <= 0.5 * t->n_seconds;
    if (!good)
        (void)printf("below the floor: more than one false caption in two minutes\n");
    if (t->n_skipped) {
        (void)printf("below the floor: %u frames were not taken in\n", t->n_skipped);
        good = false;
    }
    for (size_t i = 0; i < sizeof(floor) / sizeof(floor[0]); i++) {
        double right = 0;
        for (uint32_t k = 0; k < t->n_rows; k++)
            if (!strcmp(t->row[k].name, floor[i].name))
                right = 100.0 * t->row[k].right[ALL] / t->row[k].asked[ALL];
        if (right >= floor[i].percent)
            continue;
        (void)printf("below the floor: %s %.1f, must be %.0f; --wrong shows which\n", floor[i].name, right,
                     floor[i].percent);
        good = false;
    }
    return good;
}

static void print_rates(const struct tally *t, const struct options *o, const struct vl_engine_info *info,
                        double s)
{
    double frames = t->n_seconds ? t->n_seconds : 1, questions = t->n_questions ? t->n_questions : 1;
    (void)printf("%u scenes of %d s from %u on, event rate %.2f%s, %.0f s; %s %s, %s\n", o->n_scenes,
                 VL_QUIZ_EXAM_SECONDS, o->first, (double)o->event_rate, o->blind ? ", blind" : "", s,
                 info->model_name, info->quantization, info->kernels);
    (void)printf("false captions a minute %.2f, events missed %u, frames skipped %u\n",
                 60.0 * t->n_false / frames, t->n_missed, t->n_skipped);
    (void)printf("a frame: encode %.2f ms, prefill %.2f ms, decode %.2f ms; a question: %.2f ms\n",
                 (double)t->encode_ns / frames / 1e6, (double)t->prefill_ns / frames / 1e6,
                 (double)t->decode_ns / frames / 1e6, (double)t->ask_ns / questions / 1e6);
}

/* NAME or NAME:KEY=VALUE,...; the strings live as long as the program. */
static const char *read_named(const char *text, const struct vl_params **ret_params)
{
    static char names[4][64];
    static size_t n;
    struct vl_params *params = NULL;
    struct vl_error err;
    if (n == sizeof(names) / sizeof(names[0]))
        vl_feed_die("--reducer and --policy once each, please");
    if (vl_params_parse(text, names[n], sizeof(names[n]), &params, &err) < 0)
        vl_feed_die("%s", err.msg);
    *ret_params = params;
    return names[n++];
}

static void read_reducer(struct vl_exam_how *how, const char *text)
{
    const struct vl_params *params;
    const struct vl_reducer_ops *ops;
    struct vl_error err;
    const char *name = read_named(text, &params);
    if (vl_reducer_find(&ops, name, &err) < 0)
        vl_feed_die("%s", err.msg);
    *(ops->needs_question ? &how->question_reducer : &how->reducer) = name;
    *(ops->needs_question ? &how->question_params : &how->reducer_params) = params;
}

static uint32_t number(const char *text)
{
    return (uint32_t)strtoul(text, NULL, 0);
}

static void read_percents(struct vl_sweep_opts *o, const char *text)
{
    o->n_percents = 0;
    for (char *end = (char *)text; *end; text = end + 1) {
        unsigned long n = strtoul(text, &end, 10);
        if (n < 1 || n > 100 || (*end && *end != ',') || o->n_percents == VL_SWEEP_PERCENTS)
            vl_feed_die("--percents: at most %d numbers of 1 to 100, as in 100,50,25,10", VL_SWEEP_PERCENTS);
        o->percent[o->n_percents++] = (uint32_t)n;
    }
}

static void read_options(struct options *o, int argc, char **argv)
{
    static const struct option known[] = {
        {"model", required_argument, NULL, 'm'},
        {"mmproj", required_argument, NULL, 'p'},
        {"backend", required_argument, NULL, 'k'},
        {"seed", required_argument, NULL, 's'},
        {"scenes", required_argument, NULL, 'n'},
        {"first", required_argument, NULL, 'f'},
        {"event-rate", required_argument, NULL, 'e'},
        {"blind", no_argument, NULL, 'b'},
        {"wrong", no_argument, NULL, 'w'},
        {"csv", no_argument, NULL, 'c'},
        {"floors", no_argument, NULL, 'l'},
        {"reducer", required_argument, NULL, 'r'},
        {"policy", required_argument, NULL, 'o'},
        {"tokens-per-frame", required_argument, NULL, 't'},
        {"sweep", required_argument, NULL, 'S'},
        {"jobs", required_argument, NULL, 'j'},
        {"timed", required_argument, NULL, 'T'},
        {"seconds", required_argument, NULL, 'D'},
        {"percents", required_argument, NULL, 'P'},
        {NULL, 0, NULL, 0},
    };
    uint32_t tokens = 0;
    int c;
    while ((c = getopt_long(argc, argv, "", known, NULL)) >= 0)
        switch (c) {
        case 'm':
            o->model = optarg;
            break;
        case 'p':
            o->mmproj = optarg;
            break;
        case 'k':
            o->backend = optarg;
            break;
        case 's':
            o->first += number(optarg) << 16; /* other scenes, as many as one likes */
            break;
        case 'e':
            o->event_rate = strtof(optarg, NULL);
            break;
        case 'n':
            o->n_scenes = number(optarg);
            o->has_scenes = true;
            break;
        case 'f':
            o->first += number(optarg);
            break;
        case 'b':
            o->blind = true;
            break;
        case 'w':
            o->wrong = true;
            break;
        case 'c':
            o->csv = true;
            break;
        case 'l':
            o->floors = true;
            break;
        case 'r':
            read_reducer(&o->how, optarg);
            break;
        case 'o':
            o->how.policy = read_named(optarg, &o->how.policy_params);
            break;
        case 't':
            tokens = number(optarg);
            break;
        case 'S':
            o->sweep.csv = optarg;
            break;
        case 'j':
            o->sweep.n_jobs = number(optarg);
            break;
        case 'T':
            o->sweep.n_timed = number(optarg);
            break;
        case 'D':
            o->sweep.n_seconds = number(optarg);
            break;
        case 'P':
            read_percents(&o->sweep, optarg);
            break;
        default:
            exit(2);
        }
    if (!o->model || !o->mmproj || optind < argc)
        vl_feed_die("usage: quality --model FILE --mmproj FILE [--backend NAME] [--scenes N] [--first N] "
                    "[--seed N] [--event-rate X] [--blind] [--wrong] [--csv] [--floors] "
                    "[--reducer NAME[:KEY=VALUE,...]] [--tokens-per-frame N] [--policy NAME[:KEY=VALUE,...]] "
                    "[--sweep FILE.csv [--jobs N] [--timed N] [--seconds N] [--percents N,N,...]]");
    *(o->how.question_reducer ? &o->how.question_tokens : &o->how.tokens) = tokens;
}

int main(int argc, char **argv)
{
    struct options o = {.n_scenes = 300,
                        .event_rate = 0.5f,
                        .sweep = {.n_timed = VL_SWEEP_TIMED, .percent = {100, 50, 25, 10}, .n_percents = 4}};
    read_options(&o, argc, argv);
    static struct tally t;
    static struct vl_feed f;
    struct vl_engine_info info;
    if (o.sweep.csv) {
        o.sweep.model = o.model;
        o.sweep.mmproj = o.mmproj;
        o.sweep.backend = o.backend;
        o.sweep.first = o.first;
        o.sweep.n_scenes = o.has_scenes ? o.n_scenes : VL_SWEEP_SCENES;
        o.sweep.event_rate = o.event_rate;
        vl_sweep(&o.sweep);
        return 0;
    }
    vl_feed_open(&f, &(struct vl_engine_opts){.model = o.model, .mmproj = o.mmproj, .backend = o.backend});
    (void)vl_engine_get_info(f.engine, &info); /* it is READY */
    int64_t t0 = vl_clock_monotonic_ns();
    for (uint32_t i = 0; i < o.n_scenes; i++)
        sit_scene(&f, &o, &t, o.first + i);
    print_table(&t, &o);
    print_rates(&t, &o, &info, (double)(vl_clock_monotonic_ns() - t0) / 1e9);
    vl_feed_close(&f);
    return o.floors && !hold_floors(&t) ? 1 : 0;
}
