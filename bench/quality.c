/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * How well a model sees the drawn world, through the whole engine: frames go in by a mailbox, captions and
 * answers come out as events. Prints accuracy by category and aspect, and captions. --blind shows grey
 * pictures instead: what can be guessed without seeing. The scenes and questions are those of bench/exam.h.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "bench/exam.h"
#include "engine/engine.h"

#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

enum { ALL = VL_EXAM_N_ASPECTS, HELD_OUT, N_COLUMNS };
struct score {
    uint32_t n, right;
};
struct table {
    struct score answer[VL_QUIZ_N_CATEGORIES][N_COLUMNS];
    struct score moving[N_COLUMNS]; /* motion, of what really moves */
    struct score caption[N_COLUMNS];
    uint32_t false_captions[N_COLUMNS], seconds[N_COLUMNS];
    uint32_t failed;
};
struct bench {
    struct vl_engine *engine;
    const char *model, *mmproj, *backend;
    uint64_t seed;
    uint32_t first, n_scenes, shown;
    bool blind;
    struct table table;
    char text[1024]; /* of the turn or caption that is being read */
    size_t n_text;
};

static void count(struct score row[N_COLUMNS], int aspect, bool held_out, bool right)
{
    const int columns[] = {held_out ? HELD_OUT : ALL, held_out ? HELD_OUT : aspect};
    for (int i = 0; i < (held_out ? 1 : 2); i++) {
        row[columns[i]].n++;
        row[columns[i]].right += right;
    }
}

struct picture {
    struct vl_frame frame;
    uint8_t rgb[];
};

static void release_picture(struct vl_frame *f)
{
    free(f);
}

static struct vl_frame *draw(const struct bench *b, const struct vl_exam_scene *s, const struct vl_world *w,
                             int64_t second)
{
    size_t stride = (size_t)s->width * 3;
    struct picture *p = calloc(1, sizeof(*p) + stride * (size_t)s->height);
    if (!p)
        return NULL;
    struct vl_world_scene scene;
    vl_world_scene_at(w, 1.0, &scene);
    scene.plain = b->blind;
    if (vl_world_draw(&scene, s->width, s->height, stride, p->rgb, NULL) < 0) {
        free(p);
        return NULL;
    }
    p->frame = (struct vl_frame){
        .plane = {p->rgb},
        .stride = {(uint32_t)stride},
        .width = (uint32_t)s->width,
        .height = (uint32_t)s->height,
        .format = VL_PIXFMT_RGB24,
        .matrix = VL_MATRIX_RGB,
        .range = VL_RANGE_FULL,
        .pts_ns = second * VL_NSEC_PER_SEC,
        .wall_ns = vl_clock_wall_ns(),
        .seq = (uint64_t)second,
        .release = release_picture,
    };
    atomic_init(&p->frame.refs, 1);
    return &p->frame;
}

static void add_text(struct bench *b, const struct vl_event *e)
{
    size_t n = e->len < sizeof(b->text) - 1 - b->n_text ? e->len : sizeof(b->text) - 1 - b->n_text;
    memcpy(b->text + b->n_text, e->text, n);
    b->n_text += n;
    b->text[b->n_text] = '\0';
}

/* Reads events until one of the wanted type comes, which is left in *ret; text of that turn is in b->text. */
static int wait_for(struct bench *b, enum vl_event_type type, uint64_t turn, struct vl_event *ret)
{
    b->n_text = 0;
    b->text[0] = '\0';
    for (;;) {
        int r = vl_engine_next_event(b->engine, ret);
        if (r == VL_ENGINE_EMPTY) {
            struct pollfd p = {.fd = vl_engine_event_fd(b->engine), .events = POLLIN};
            (void)poll(&p, 1, -1);
            continue;
        }
        if (r < 0)
            return r;
        if (ret->type == VL_EVENT_FAILED) {
            (void)fprintf(stderr, "quality: %s\n", ret->error.msg);
            return ret->error.code;
        }
        bool whole =
            type == VL_EVENT_FRAME_SEEN ? ret->type == VL_EVENT_CAPTION_DONE : ret->type == VL_EVENT_TEXT;
        if (whole && ret->turn == turn)
            add_text(b, ret);
        if (ret->type == type && ret->turn == turn)
            return 0;
    }
}

static void show(struct bench *b, const char *what, const char *question, const char *expected)
{
    if (b->shown == 0)
        return;
    b->shown--;
    (void)fprintf(stderr, "%s%s%s -> '%s', expected '%s'\n", what, *question ? ": " : "", question, b->text,
                  expected);
}

static int ask(struct bench *b, uint64_t session, int aspect, const struct vl_quiz_item *q)
{
    struct vl_ask a = {
        .session = session, .max_tokens = 32, .text = q->question, .sampling = VL_SAMPLING_GREEDY};
    struct vl_error err = {0};
    struct vl_event e;
    uint64_t turn;
    int r = vl_engine_ask(b->engine, &a, &turn, &err);
    if (r) {
        (void)fprintf(stderr, "quality: ask: %s\n", r < 0 ? err.msg : "busy");
        return r < 0 ? r : -EBUSY;
    }
    if ((r = wait_for(b, VL_EVENT_TURN_DONE, turn, &e)) < 0)
        return r;
    b->table.failed += e.status != VL_TURN_OK;
    bool right = vl_quiz_is_right(q, b->text);
    if (!right)
        show(b, vl_quiz_category_name(q->category), q->question, q->answer);
    count(b->table.answer[q->category], aspect, q->held_out, right);
    if (q->category == VL_QUIZ_MOTION && q->moving)
        count(b->table.moving, aspect, q->held_out, right);
    return 0;
}

static void grade_caption(struct bench *b, int aspect, bool held_out, const struct vl_world_truth *t)
{
    char expected[VL_QUIZ_TEXT_SIZE];
    vl_quiz_caption(&t->event, expected);
    bool event = t->second > 0 && *expected;
    bool right = event ? vl_quiz_same_text(b->text, expected) : b->text[0] == '\0';
    int column = held_out ? HELD_OUT : aspect;
    if (event) {
        count(b->table.caption, aspect, held_out, right);
    } else {
        b->table.false_captions[column] += !right;
        if (!held_out)
            b->table.false_captions[ALL] += !right;
    }
    b->table.seconds[column]++;
    if (!held_out)
        b->table.seconds[ALL]++;
    if (!right)
        show(b, "caption", "", event ? expected : "");
}

static int second(struct bench *b, uint32_t index, const struct vl_exam_scene *s, const struct vl_world *w,
                  uint64_t session, struct vl_mailbox *box, struct vl_world_truth *history, uint32_t n)
{
    struct vl_quiz_item item[VL_EXAM_MAX_QUESTIONS];
    struct vl_event e;
    history[n] = *vl_world_truth(w);
    struct vl_frame *f = draw(b, s, w, n);
    if (!f)
        return -ENOMEM;
    int r = vl_mailbox_put(box, f);
    if (r < 0 || (r = wait_for(b, VL_EVENT_FRAME_SEEN, 0, &e)) < 0)
        return r;
    grade_caption(b, s->aspect, s->world.held_out == VL_WORLD_HELD_OUT_FORCED, &history[n]);
    uint32_t n_items = n ? vl_exam_questions(b->seed, index, history, n + 1, item) : 0;
    for (uint32_t i = 0; i < n_items; i++)
        if ((r = ask(b, session, s->aspect, &item[i])) < 0)
            return r;
    return 0;
}

static int scene(struct bench *b, uint32_t index)
{
    struct vl_world_truth history[VL_EXAM_SECONDS];
    struct vl_session_opts o = {.captions = true, .sampling = VL_SAMPLING_GREEDY};
    struct vl_exam_scene s;
    struct vl_error err = {0};
    struct vl_world *w = NULL;
    vl_auto(vl_mailbox) box = NULL;
    uint64_t session = 0;
    vl_exam_scene(b->seed, index, &s);
    int r = vl_world_open(&s.world, &w);
    if (r < 0)
        return r;
    if ((r = vl_mailbox_new(&box, 2, NULL, NULL)) == 0 &&
        (r = vl_engine_open_session(b->engine, &o, &session, &err)) == 0)
        r = vl_engine_watch(b->engine, session, box);
    for (uint32_t n = 0; r == 0 && n < VL_EXAM_SECONDS; n++) {
        if (n)
            vl_world_step(w);
        r = second(b, index, &s, w, session, box, history, n);
    }
    if (session)
        (void)vl_engine_close_session(b->engine, session);
    (void)vl_world_close(w);
    return r;
}

static void print_row(const char *name, const struct score row[N_COLUMNS])
{
    (void)printf("%-22s", name);
    for (int c = 0; c < N_COLUMNS; c++) {
        int column = c == 0 ? ALL : c <= VL_EXAM_N_ASPECTS ? c - 1 : HELD_OUT;
        const struct score *s = &row[column];
        if (s->n)
            (void)printf("  %6.2f (%5u)", 100.0 * s->right / s->n, s->n);
        else
            (void)printf("       - (    0)");
    }
    double p = row[ALL].n ? (double)row[ALL].right / row[ALL].n : 0;
    (void)printf("  +-%.2f\n", row[ALL].n ? 196 * sqrt(p * (1 - p) / row[ALL].n) : 0.0);
}

static void print_table(const struct bench *b)
{
    const struct table *t = &b->table;
    (void)printf("%-22s  %14s", b->blind ? "blind: right, % (n)" : "right, % (n)", "all");
    for (int a = 0; a < VL_EXAM_N_ASPECTS; a++)
        (void)printf("  %14s", vl_exam_aspect_name(a));
    (void)printf("  %14s\n", "held-out triples");
    for (int c = 0; c < VL_QUIZ_N_CATEGORIES; c++)
        print_row(vl_quiz_category_name(c), t->answer[c]);
    print_row("motion, moving", t->moving);
    print_row("caption of an event", t->caption);
    (void)printf("%-22s", "false captions a min.");
    for (int c = 0; c < N_COLUMNS; c++) {
        int column = c == 0 ? ALL : c <= VL_EXAM_N_ASPECTS ? c - 1 : HELD_OUT;
        (void)printf("  %14.2f",
                     t->seconds[column] ? 60.0 * t->false_captions[column] / t->seconds[column] : 0.0);
    }
    (void)printf("\nfailed turns %u\n", t->failed);
}

static int run(struct bench *b)
{
    struct vl_engine_opts o = {.backend = b->backend, .model = b->model, .mmproj = b->mmproj};
    struct vl_error err = {0};
    struct vl_event e;
    int r = vl_engine_new(&b->engine, &o, &err);
    if (r < 0) {
        (void)fprintf(stderr, "quality: %s\n", err.msg);
        return r;
    }
    r = wait_for(b, VL_EVENT_READY, 0, &e);
    int64_t t0 = vl_clock_monotonic_ns();
    for (uint32_t i = b->first; r == 0 && i < b->first + b->n_scenes; i++) {
        r = scene(b, i);
        if (i % 100 == 99)
            (void)fprintf(stderr, "%u scenes, %.0f s\n", i + 1, (double)(vl_clock_monotonic_ns() - t0) / 1e9);
    }
    if (r == 0)
        print_table(b);
    b->engine = vl_engine_unref(b->engine);
    return r;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"model", required_argument, NULL, 'm'},
        {"mmproj", required_argument, NULL, 'p'},
        {"backend", required_argument, NULL, 'k'},
        {"scenes", required_argument, NULL, 'n'},
        {"first", required_argument, NULL, 'f'},
        {"seed", required_argument, NULL, 's'},
        {"show", required_argument, NULL, 'w'},
        {"blind", no_argument, NULL, 'b'},
        {NULL, 0, NULL, 0},
    };
    struct bench b = {.model = VLMD_BUILTIN_TEXT, .mmproj = VLMD_BUILTIN_MMPROJ, .seed = 1, .n_scenes = 2000};
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'm':
            b.model = optarg;
            break;
        case 'p':
            b.mmproj = optarg;
            break;
        case 'k':
            b.backend = optarg;
            break;
        case 'n':
            b.n_scenes = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'f':
            b.first = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 's':
            b.seed = strtoull(optarg, NULL, 10);
            break;
        case 'w':
            b.shown = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'b':
            b.blind = true;
            break;
        default:
            (void)fprintf(stderr,
                          "Usage: quality [--model F --mmproj F] [--backend B] [--scenes N] [--first I] "
                          "[--seed S] [--show N wrong answers] [--blind]\n");
            return 2;
        }
    }
    return run(&b) < 0;
}
