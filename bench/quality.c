/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The exam of the drawn world, sat by a model through the engine: scenes at the model's pace, a caption each
 * second, questions on forks. Prints one table: rows are categories, columns are aspects, and apart from them
 * what was asked about (shape, colour, place) triples that training never saw. With --blind the same exam is
 * sat with grey pictures: what is right then is guessing. --csv for machines; with --floors the exit status
 * is 1 when the table is below what is promised.
 *
 *     build/bench/quality --model data/vlmd-world-text.gguf --mmproj data/vlmd-world-mmproj.gguf --scenes 300
 */
#include "base/clock.h"
#include "bench/feed.h"
#include "bench/quiz.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum { N_ASPECTS = 3, ALL = N_ASPECTS, HELD_OUT, N_COLUMNS, MAX_ROWS = 40, MAX_TOKENS = 24 };

struct row {
    char name[32];
    uint32_t right[N_COLUMNS], asked[N_COLUMNS];
};
struct tally {
    struct row row[MAX_ROWS];
    uint32_t n_rows, n_seconds, n_false, n_missed, n_questions;
    int64_t encode_ns, prefill_ns, decode_ns, ask_ns;
};
struct options {
    const char *model, *mmproj, *backend;
    uint32_t first, n_scenes;
    float event_rate;
    bool blind, wrong, csv, floors;
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

static void ask_all(struct vl_feed *f, const struct options *o, struct tally *t, uint32_t index,
                    const struct vl_quiz_scene *scene, const struct vl_world_truth *history, uint32_t n)
{
    for (int c = 0; c < VL_QUIZ_N_CATEGORIES; c++) {
        struct vl_quiz_item item;
        if (vl_quiz_exam_ask(index, history, n, (enum vl_quiz_category)c, &item) != 0)
            continue;
        vl_feed_ask(f, item.question, MAX_TOKENS);
        bool right = vl_quiz_is_right(&item, f->answer);
        count_answer(t, scene, &item, right);
        t->n_questions++;
        t->ask_ns += f->turn.total_ns;
        if (o->wrong && !right)
            (void)printf("wrong: %s scene %u second %u: '%s' '%s', right is '%s'\n",
                         vl_quiz_aspect_name(scene->aspect), index, n - 1, item.question, f->answer,
                         item.answer);
    }
}

/* Shows the second that the world stands at; its caption is then in f. */
static void show_second(struct vl_feed *f, const struct options *o, const struct vl_quiz_scene *scene,
                        const struct vl_world *world, uint32_t second, uint8_t *rgb)
{
    struct vl_world_scene picture;
    vl_world_scene_at(world, 1, &picture);
    picture.plain = o->blind;
    if (vl_world_draw(&picture, scene->width, scene->height, 3 * (size_t)scene->width, rgb, NULL) < 0)
        vl_feed_die("cannot draw second %u", second);
    vl_feed_show(f, rgb, (uint32_t)scene->width, (uint32_t)scene->height, second * VL_NSEC_PER_SEC);
}

static void sit_scene(struct vl_feed *f, const struct options *o, struct tally *t, uint32_t index)
{
    const struct vl_quiz_scene scene = vl_quiz_exam_scene(index, o->event_rate);
    struct vl_world *world;
    struct vl_world_truth history[VL_QUIZ_EXAM_SECONDS];
    uint8_t *rgb = malloc(3 * (size_t)scene.width * (size_t)scene.height);
    if (!rgb || scene.n_seconds > VL_QUIZ_EXAM_SECONDS || vl_world_open(&scene.options, &world) < 0)
        vl_feed_die("cannot open scene %u", index);
    vl_feed_begin(f, &(struct vl_session_opts){
                         .max_caption_tokens = MAX_TOKENS, .captions = true, .sampling = VL_SAMPLING_GREEDY});
    for (uint32_t s = 0; s < (uint32_t)scene.n_seconds; s++) {
        char want[VL_QUIZ_TEXT_SIZE] = "";
        if (s)
            vl_world_step(world);
        history[s] = *vl_world_truth(world);
        if (s) /* what is there from the start is no news */
            vl_quiz_caption(&history[s].event, want);
        show_second(f, o, &scene, world, s, rgb);
        count_caption(t, &scene, &history[s], f->caption, want);
        if (o->wrong && !vl_quiz_same_text(f->caption, want))
            (void)printf("wrong: %s scene %u second %u: caption '%s', right is '%s'\n",
                         vl_quiz_aspect_name(scene.aspect), index, s, f->caption, want);
        t->encode_ns += f->stats.encode_ns;
        t->prefill_ns += f->stats.prefill_ns;
        t->decode_ns += f->stats.decode_ns;
        ask_all(f, o, t, index, &scene, history, s + 1);
    }
    (void)vl_world_close(world);
    free(rgb);
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
    } floor[] = {{"shape", 95}, {"colour", 95},         {"where", 95},
                 {"count", 85}, {"motion: moving", 85}, {"caption", 80}};
    bool good = 60.0 * t->n_false <= 2.0 * t->n_seconds;
    if (!good)
        (void)printf("below the floor: more than 2 false captions a minute\n");
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
    (void)printf("false captions a minute %.2f, events missed %u\n", 60.0 * t->n_false / frames, t->n_missed);
    (void)printf("a frame: encode %.2f ms, prefill %.2f ms, decode %.2f ms; a question: %.2f ms\n",
                 (double)t->encode_ns / frames / 1e6, (double)t->prefill_ns / frames / 1e6,
                 (double)t->decode_ns / frames / 1e6, (double)t->ask_ns / questions / 1e6);
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
        {NULL, 0, NULL, 0},
    };
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
            o->first += (uint32_t)strtoul(optarg, NULL, 0) << 16; /* other scenes, as many as one likes */
            break;
        case 'e':
            o->event_rate = strtof(optarg, NULL);
            break;
        case 'n':
            o->n_scenes = (uint32_t)strtoul(optarg, NULL, 0);
            break;
        case 'f':
            o->first += (uint32_t)strtoul(optarg, NULL, 0);
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
        default:
            exit(2);
        }
    if (!o->model || !o->mmproj || optind < argc)
        vl_feed_die("usage: quality --model FILE --mmproj FILE [--backend NAME] [--scenes N] [--first N] "
                    "[--seed N] [--event-rate X] "
                    "[--blind] [--wrong] [--csv] [--floors]");
}

int main(int argc, char **argv)
{
    struct options o = {.n_scenes = 300, .event_rate = 0.5f};
    read_options(&o, argc, argv);
    static struct tally t;
    static struct vl_feed f;
    struct vl_engine_info info;
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
