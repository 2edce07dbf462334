/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The engine with the tiny random SmolVLM of tests/golden: what it says is noise, but it is the same noise
 * with and without questions, with one worker and with two, and in steady state nothing is allocated for it.
 */
#include "tests/harness.h"

#include "base/clock.h"
#include "engine/engine.h"
#include "kvcache/policy.h"

#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static char text_file[512], mmproj_file[512], f32_text_file[512], f32_mmproj_file[512];
static char tiles_text_file[512], tiles_mmproj_file[512], odd_text_file[512], odd_mmproj_file[512];
static char change_text_file[512], change_mmproj_file[512];
enum { SIDE = 96, N_FRAMES = 40, CAPTION = 512 };

/* ---- allocations of other threads than this one are counted while armed (ld --wrap) ---- */

static atomic_bool armed;
static atomic_uint n_allocations;
static pthread_t main_thread;

static void note_allocation(void)
{
    if (atomic_load(&armed) && !pthread_equal(pthread_self(), main_thread))
        atomic_fetch_add(&n_allocations, 1);
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);

void *__wrap_malloc(size_t n)
{
    note_allocation();
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    note_allocation();
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    note_allocation();
    return __real_realloc(p, n);
}

char *__wrap_strdup(const char *s)
{
    note_allocation();
    return __real_strdup(s);
}

/* ---- a clip ---- */

static void release_frame(struct vl_frame *f)
{
    free((void *)f->plane[0]);
    free(f);
}

/* A bright square that wanders over noise, one second a frame. */
static struct vl_frame *new_frame(int i)
{
    struct test_rng rng = {(uint64_t)i * 7919 + 1};
    uint8_t *p = malloc(SIDE * SIDE * 3);
    struct vl_frame *f = calloc(1, sizeof(*f));
    assert_true(p && f);
    for (int k = 0; k < SIDE * SIDE * 3; k++)
        p[k] = (uint8_t)test_randn(&rng, 100);
    for (int y = 0; y < 30; y++)
        memset(p + ((i * 5 % 60 + y) * SIDE + i * 11 % 60) * 3, 200 + i, 90);
    *f = (struct vl_frame){.plane = {p},
                           .stride = {SIDE * 3},
                           .width = SIDE,
                           .height = SIDE,
                           .format = VL_PIXFMT_RGB24,
                           .pts_ns = i * VL_NSEC_PER_SEC,
                           .wall_ns = (1000 + i) * VL_NSEC_PER_SEC,
                           .refs = 1,
                           .release = release_frame};
    return f;
}

struct run {
    struct vl_engine *e;
    struct vl_mailbox *box;
    uint64_t session;
    uint32_t n_seen, n_captions, n_done, n_ready, n_failed;
    struct vl_session_stats stats;
    struct vl_error error;
    struct vl_turn_stats turn; /* of the last answer */
    char caption[N_FRAMES][CAPTION];
    char answer[65536]; /* of all turns, in order of arrival */
};

static void pump(struct run *r, const uint32_t *n, uint32_t want)
{
    int64_t end = vl_clock_monotonic_ns() + 60 * VL_NSEC_PER_SEC;
    struct vl_event ev;
    while (*n < want) {
        if (vl_engine_next_event(r->e, &ev) == VL_ENGINE_EMPTY) {
            struct pollfd p = {.fd = vl_engine_event_fd(r->e), .events = POLLIN};
            (void)poll(&p, 1, 100);
            if (vl_clock_monotonic_ns() > end)
                fail_msg("waited for %u, have %u; '%s'", want, *n, r->error.msg);
            continue;
        }
        r->n_ready += ev.type == VL_EVENT_READY;
        r->n_done += ev.type == VL_EVENT_TURN_DONE;
        if (ev.type == VL_EVENT_FAILED) {
            r->n_failed++;
            r->error = ev.error;
        }
        if (ev.type == VL_EVENT_CAPTION_DONE)
            (void)snprintf(r->caption[r->n_captions++], CAPTION, "%s", ev.text);
        if (ev.type == VL_EVENT_TEXT && ev.turn)
            strncat(r->answer, ev.text, sizeof(r->answer) - strlen(r->answer) - 1);
        if (ev.type == VL_EVENT_FRAME_SEEN) {
            r->n_seen++;
            r->stats = ev.session_stats;
        }
        if (ev.type == VL_EVENT_TURN_DONE) {
            assert_int_equal(ev.status, VL_TURN_OK);
            r->turn = ev.turn_stats;
        }
    }
}

static struct run *start(const char *text, const char *mmproj, uint32_t n_workers)
{
    struct run *r = calloc(1, sizeof(*r));
    struct vl_error err = {0};
    assert_non_null(r);
    if (vl_engine_new(&r->e,
                      &(struct vl_engine_opts){.model = text, .mmproj = mmproj, .n_workers = n_workers},
                      &err) < 0)
        fail_msg("%s", err.msg);
    return r;
}

static void watch_with(struct run *r, float temperature, const char *reducer, const char *policy)
{
    struct vl_params *window = NULL;
    struct vl_error err = {0};
    assert_int_equal(vl_params_new(&window), 0);
    assert_int_equal(vl_params_set_f64(window, "window", 3), 0);
    assert_int_equal(vl_params_set_f64(window, "text_tokens", 60), 0);
    struct vl_session_opts o = {
        .max_caption_tokens = 8,
        .captions = true,
        .policy = policy,
        .policy_params = window,
        .reducer = reducer,
        .sampling = {.temperature = temperature, .top_p = 1, .repeat_penalty = 1, .seed = 5}};
    if (vl_engine_open_session(r->e, &o, &r->session, &err) < 0)
        fail_msg("%s", err.msg);
    (void)vl_params_unref(window);
    assert_int_equal(vl_mailbox_new(&r->box, 2, NULL, NULL), 0);
    assert_int_equal(vl_engine_watch(r->e, r->session, r->box), 0);
}

static void watch_reduced(struct run *r, float temperature, const char *reducer)
{
    watch_with(r, temperature, reducer, NULL);
}

static void watch(struct run *r, float temperature)
{
    watch_reduced(r, temperature, NULL);
}

static void show(struct run *r, int i)
{
    (void)vl_mailbox_put(r->box, new_frame(i));
    pump(r, &r->n_seen, r->n_seen + 1);
}

static void ask_reduced(struct run *r, const char *reducer, uint32_t budget)
{
    uint64_t id;
    struct vl_ask q = {
        .session = r->session,
        .text = "What colour is the square?",
        .max_tokens = 12,
        .reducer = reducer,
        .visual_budget = budget,
        .sampling = {.temperature = 1, .top_p = 1, .repeat_penalty = 1.1f, .repeat_window = 32}};
    assert_int_equal(vl_engine_ask(r->e, &q, &id, NULL), 0);
}

static void ask(struct run *r)
{
    ask_reduced(r, NULL, 0);
}

static void stop(struct run *r)
{
    r->e = vl_engine_unref(r->e);
    r->box = vl_mailbox_unref(r->box);
    free(r);
}

/* n_questions of every frame but the first; the second and third leave tokens out. */
static struct run *run_clip(uint32_t n_workers, bool questions)
{
    static const char *const reducer[] = {NULL, "feather", "zipvl"};
    struct run *r = start(text_file, mmproj_file, n_workers);
    uint32_t n_asked = 0;
    watch(r, 0);
    for (int i = 0; i < N_FRAMES; i++) {
        (void)vl_mailbox_put(r->box, new_frame(i));
        for (int k = 0; questions && i && k < 3; k++, n_asked++)
            ask_reduced(r, reducer[k], k == 2 ? 1 : 0);
        pump(r, &r->n_seen, (uint32_t)i + 1);
        if (i % 4 == 3) /* the queue is bounded */
            pump(r, &r->n_done, n_asked);
    }
    assert_int_equal(r->n_captions, N_FRAMES);
    assert_int_equal(r->stats.window_frames, 3);
    return r;
}

static void compare(const struct run *a, const struct run *b)
{
    for (int i = 0; i < N_FRAMES; i++)
        assert_string_equal(a->caption[i], b->caption[i]);
}

static void test_questions_leave_no_trace_in_the_commentary(void **state)
{
    (void)state;
    struct run *without = run_clip(1, false), *again = run_clip(1, false), *with = run_clip(1, true);
    uint32_t n_words = 0;
    for (int i = 0; i < N_FRAMES; i++)
        n_words += without->caption[i][0] != '\0';
    assert_true(n_words > N_FRAMES / 2); /* or there would be nothing to disturb */
    assert_true(with->answer[0]);
    compare(without, again);
    compare(without, with);
    stop(without);
    stop(again);
    stop(with);
}

/* A reducer that knows by itself what is enough needs no budget: of a frame like the one before little
 * stays. */
static void test_a_measure_of_its_own_needs_no_budget(void **state)
{
    (void)state;
    struct run *r = start(text_file, mmproj_file, 1);
    watch_reduced(r, 0, "temporal_diff");
    show(r, 3);
    assert_int_equal(r->stats.n_dropped_tokens, 0);
    const uint64_t whole = r->stats.n_visual_tokens;
    show(r, 3);
    assert_int_equal(r->stats.n_visual_tokens, whole + 1);
    stop(r);
}

/* What is left out is told, and with a budget it is all but that of each frame in view. */
static void test_questions_leave_tokens_out(void **state)
{
    (void)state;
    struct run *r = run_clip(1, false);
    static const struct {
        const char *name;
        uint32_t budget;
    } one[] = {{NULL, 0}, {"feather", 0}, {"feather", 1}, {"zipvl", 1}, {"feather", 4096}};
    const uint32_t per_frame = (uint32_t)(r->stats.n_visual_tokens / r->stats.n_frames);
    for (uint32_t i = 0; i < sizeof(one) / sizeof(one[0]); i++) {
        ask_reduced(r, one[i].name, one[i].budget);
        pump(r, &r->n_done, i + 1);
        if (one[i].budget == 1)
            assert_int_equal(r->turn.n_pruned, 3 * (per_frame - 1));
        else
            assert_int_equal(r->turn.n_pruned > 0, one[i].name && !one[i].budget);
        assert_true(r->turn.n_output > 0);
    }
    stop(r);
}

static void test_workers_change_nothing(void **state)
{
    (void)state;
    struct run *one = run_clip(1, false), *two = run_clip(2, false);
    compare(one, two);
    ask(one);
    ask(two);
    pump(one, &one->n_done, 1);
    pump(two, &two->n_done, 1);
    assert_string_equal(one->answer, two->answer);
    stop(one);
    stop(two);
}

/* A pair that sees change says what the same pair without that tensor says, as long as nothing changes. */
static void test_change_is_seen(void **state)
{
    (void)state;
    static const int moments[] = {3, 3, 3, 5, 8, 13, 21, 34};
    struct run *without = start(odd_text_file, odd_mmproj_file, 1),
               *with = start(change_text_file, change_mmproj_file, 1);
    uint32_t n_same = 0, n_words = 0;
    watch(without, 0);
    watch(with, 0);
    for (uint32_t i = 0; i < 8; i++) {
        show(without, moments[i]);
        show(with, moments[i]);
        n_words += without->caption[i][0] != '\0';
        n_same += strcmp(without->caption[i], with->caption[i]) == 0;
        if (i < 3)
            assert_int_equal(n_same, i + 1);
    }
    assert_true(n_words > 4 && n_same < 8);
    stop(without);
    stop(with);
}

static void allocate_nothing(const char *text, const char *mmproj)
{
    main_thread = pthread_self();
    atomic_store(&armed, true);
    struct run *r = start(text, mmproj, 2);
    watch(r, 0);
    pump(r, &r->n_ready, 1);
    atomic_store(&armed, false);
    assert_true(atomic_load(&n_allocations) > 0); /* loading allocates: the count counts */
    for (int i = 0; i < 10; i++)
        show(r, i);
    atomic_store(&n_allocations, 0);
    atomic_store(&armed, true);
    for (int i = 10; i < 30; i++)
        show(r, i);
    atomic_store(&armed, false);
    assert_int_equal(atomic_load(&n_allocations), 0);
    ask(r);
    pump(r, &r->n_done, 1);
    stop(r);
}

static void test_frames_and_tokens_allocate_nothing(void **state)
{
    (void)state;
    allocate_nothing(text_file, mmproj_file);
    allocate_nothing(change_text_file, change_mmproj_file);
}

/* ---- pictures ---- */

/* Each policy through the engine: the window is what was asked for, nothing grows, nothing is allocated, and
 * questions are answered. */
static void test_every_policy_watches(void **state)
{
    (void)state;
    main_thread = pthread_self();
    for (int p = 0; vl_kv_policies[p]; p++) {
        struct run *r = start(text_file, mmproj_file, 1);
        watch_with(r, 0, NULL, vl_kv_policies[p]->name);
        for (int i = 0; i < 12; i++)
            show(r, i);
        uint64_t most = 0;
        atomic_store(&n_allocations, 0);
        atomic_store(&armed, true);
        for (int i = 12; i < N_FRAMES; i++) {
            show(r, i);
            most = r->stats.kv_bytes > most && i < 26 ? r->stats.kv_bytes : most;
            assert_true(r->stats.window_limit == 3 && r->stats.window_frames <= 3);
            assert_true(r->stats.kv_bytes <= most + most / 4);
        }
        atomic_store(&armed, false);
        assert_int_equal(atomic_load(&n_allocations), 0);
        assert_int_equal(r->stats.n_skipped, 0);
        ask(r);
        pump(r, &r->n_done, 1);
        stop(r);
    }
}

static void ask_reduced_about(struct run *r, int n_pictures, const char *reducer, uint32_t budget)
{
    struct vl_frame *f[2] = {NULL, NULL};
    uint64_t id;
    for (int i = 0; i < n_pictures; i++)
        f[i] = new_frame(7 * i + 1);
    const struct vl_ask q = {.image = f,
                             .n_images = (uint32_t)n_pictures,
                             .text = "What is it?",
                             .reducer = reducer,
                             .visual_budget = budget,
                             .max_tokens = 12,
                             .sampling = {.top_p = 1, .repeat_penalty = 1}};
    assert_int_equal(vl_engine_ask(r->e, &q, &id, NULL), 0);
    for (int i = 0; i < n_pictures; i++)
        (void)vl_frame_unref(f[i]);
    pump(r, &r->n_done, r->n_done + 1);
}

static void ask_about(struct run *r, int n_pictures)
{
    ask_reduced_about(r, n_pictures, NULL, 0);
}

/* Each view keeps its budget, and the prompt has no place for more. */
static void test_pictures_reduced(void **state)
{
    (void)state;
    struct run *r = start(tiles_text_file, tiles_mmproj_file, 1),
               *two = start(tiles_text_file, tiles_mmproj_file, 2);
    ask_about(r, 2);
    const uint32_t whole = r->turn.n_prompt;
    assert_int_equal(r->turn.n_pruned, 0);
    for (int i = 0; i < 3; i++) {
        r->answer[0] = two->answer[0] = '\0';
        ask_reduced_about(r, 2, i == 2 ? "diverse" : NULL, i == 0 ? 4096 : 3);
        ask_reduced_about(two, 2, i == 2 ? "diverse" : NULL, i == 0 ? 4096 : 3);
        assert_int_equal(r->turn.n_prompt, whole - r->turn.n_pruned);
        assert_int_equal(r->turn.n_pruned > 0, i > 0);
        assert_string_equal(r->answer, two->answer);
    }
    stop(r);
    stop(two);
}

/* Stills of 17 views; the length of the prompt is the reference's, and neither workers nor what was asked
 * before change a word. */
static void test_pictures_of_many_views(void **state)
{
    (void)state;
    struct run *one = start(tiles_text_file, tiles_mmproj_file, 1),
               *two = start(tiles_text_file, tiles_mmproj_file, 2);
    ask_about(one, 1);
    ask_about(two, 1);
    assert_int_equal(one->turn.n_prompt, 1430);
    assert_true(one->answer[0] != '\0');
    assert_string_equal(one->answer, two->answer);
    ask_about(one, 0);
    assert_int_equal(one->turn.n_prompt, 14);
    one->answer[0] = two->answer[0] = '\0';
    ask_about(one, 1);
    ask_about(two, 1);
    assert_string_equal(one->answer, two->answer);
    stop(one);
    stop(two);
}

/* ---- files that cannot be used ---- */

static void copy_file(const char *from, const char *to, size_t keep, size_t poison_from)
{
    static uint8_t data[1 << 20];
    FILE *f = fopen(from, "rbe");
    assert_non_null(f);
    size_t n = fread(data, 1, sizeof(data), f);
    (void)fclose(f);
    assert_true(n > 0 && n < sizeof(data));
    for (size_t i = poison_from; poison_from && i < n; i++)
        data[i] = 0xFF; /* f16 and f32 alike: not a number */
    f = fopen(to, "wbe");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, keep && keep < n ? keep : n, f), keep && keep < n ? keep : n);
    (void)fclose(f);
}

static void expect_failed(const char *text, const char *mmproj, const char *word)
{
    struct run *r = start(text, mmproj, 1);
    pump(r, &r->n_failed, 1);
    assert_int_equal(r->n_ready, 0);
    if (!strstr(r->error.msg, word))
        fail_msg("'%s' does not name '%s'", r->error.msg, word);
    stop(r);
}

static void test_files_that_cannot_be_used_are_named(void **state)
{
    (void)state;
    char cut[] = "/tmp/vlmd-test-cut-XXXXXX", empty[] = "/tmp/vlmd-test-empty-XXXXXX";
    (void)close(mkstemp(cut));
    (void)close(mkstemp(empty));
    copy_file(text_file, cut, 60000, 0);
    expect_failed("/nonexistent/model.gguf", mmproj_file, "model.gguf");
    expect_failed(text_file, "/nonexistent/eye.gguf", "eye.gguf");
    expect_failed(cut, mmproj_file, strrchr(cut, '/') + 1);
    expect_failed(empty, mmproj_file, strrchr(empty, '/') + 1);
    expect_failed(mmproj_file, text_file, "");
    (void)unlink(cut);
    (void)unlink(empty);
}

/* Weights that are not numbers: the engine comes up, the session says why it cannot go on. */
static void test_weights_that_are_not_numbers_end_the_session_by_name(void **state)
{
    (void)state;
    char bad[] = "/tmp/vlmd-test-nan-XXXXXX";
    (void)close(mkstemp(bad));
    copy_file(f32_text_file, bad, 0, 150000);
    struct run *r = start(bad, f32_mmproj_file, 1);
    watch(r, 0);
    pump(r, &r->n_failed, 1);
    assert_int_equal(r->n_ready, 1);
    assert_non_null(strstr(r->error.msg, "numeric"));
    stop(r);
    (void)unlink(bad);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "tests/golden/smolvlm";
    (void)snprintf(text_file, sizeof(text_file), "%s/even-q8_0-text.gguf", folder);
    (void)snprintf(mmproj_file, sizeof(mmproj_file), "%s/even-q8_0-mmproj.gguf", folder);
    (void)snprintf(f32_text_file, sizeof(f32_text_file), "%s/odd-f32-text.gguf", folder);
    (void)snprintf(f32_mmproj_file, sizeof(f32_mmproj_file), "%s/odd-f32-mmproj.gguf", folder);
    (void)snprintf(tiles_text_file, sizeof(tiles_text_file), "%s/tiles-f16-text.gguf", folder);
    (void)snprintf(tiles_mmproj_file, sizeof(tiles_mmproj_file), "%s/tiles-f16-mmproj.gguf", folder);
    (void)snprintf(odd_text_file, sizeof(odd_text_file), "%s/odd-f16-text.gguf", folder);
    (void)snprintf(odd_mmproj_file, sizeof(odd_mmproj_file), "%s/odd-f16-mmproj.gguf", folder);
    (void)snprintf(change_text_file, sizeof(change_text_file), "%s/change-f16-text.gguf", folder);
    (void)snprintf(change_mmproj_file, sizeof(change_mmproj_file), "%s/change-f16-mmproj.gguf", folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_questions_leave_no_trace_in_the_commentary),
        cmocka_unit_test(test_a_measure_of_its_own_needs_no_budget),
        cmocka_unit_test(test_questions_leave_tokens_out),
        cmocka_unit_test(test_pictures_reduced),
        cmocka_unit_test(test_workers_change_nothing),
        cmocka_unit_test(test_change_is_seen),
        cmocka_unit_test(test_frames_and_tokens_allocate_nothing),
        cmocka_unit_test(test_every_policy_watches),
        cmocka_unit_test(test_pictures_of_many_views),
        cmocka_unit_test(test_files_that_cannot_be_used_are_named),
        cmocka_unit_test(test_weights_that_are_not_numbers_end_the_session_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
