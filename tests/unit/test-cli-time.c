/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Spans and times as vlmctl reads them. */
#include "cli/vlmctl.h"
#include "tests/harness.h"

#include <errno.h>

static void test_span(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        uint64_t usec;
    } good[] = {
        {"10", 10000000},   {"10s", 10000000}, {"500ms", 500000},   {"2min 30s", 150000000},
        {"1h", 3600000000}, {"0.5s", 500000},  {"1d", 86400000000}, {" 3 s ", 3000000},
    };
    static const char *const bad[] = {
        "", ".", ".s", "5..", " ", "s", "-1s", "1x", "1e999", "1s;", "1 2 y", "nan", "99999999999999999d"};
    uint64_t v;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(vl_parse_span(good[i].s, &v), 0);
        assert_int_equal(v, good[i].usec);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(vl_parse_span(bad[i], &v), -EINVAL);
}

static void test_time(void **state)
{
    (void)state;
    const uint64_t now = UINT64_C(1700000000) * 1000000;
    uint64_t v;
    assert_int_equal(vl_parse_time("10s", now, &v), 0);
    assert_int_equal(v, now - 10000000);
    assert_int_equal(vl_parse_time("now", now, &v), 0);
    assert_int_equal(v, now);
    assert_int_equal(vl_parse_time("@1600000000.5", now, &v), 0);
    assert_int_equal(v, UINT64_C(1600000000500000));
    assert_int_equal(setenv("TZ", "UTC", 1), 0);
    assert_int_equal(vl_parse_time("2023-11-14 22:13", now, &v), 0);
    assert_int_equal(v, UINT64_C(1699999980) * 1000000);
    assert_int_equal(vl_parse_time("22:13:20", now, &v), 0);
    assert_int_equal(v, now);
    assert_int_equal(vl_parse_time("@", now, &v), -EINVAL);
    assert_int_equal(vl_parse_time("yesterday", now, &v), -EINVAL);
    assert_int_equal(vl_parse_time("60000d", now, &v), -EINVAL); /* before the epoch */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_span), cmocka_unit_test(test_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
