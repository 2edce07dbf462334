/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Option dictionaries as strangers send them: keys known, misspelt and made of bytes, values of any type, the
 * same key twice, a dictionary that is none. The message is built and sealed as the bus library does it, on a
 * connection whose other end never speaks, and read by AddStream's and Configure's readers and by one that
 * has every type. First byte: which reader; then entries of a key byte, a type byte and the value. */
#include "daemon/options.h"
#include "daemon/spec.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_ENTRIES = 40, MAX_STRING = 6000 };

struct input {
    const uint8_t *p;
    size_t n;
};

static uint64_t number(struct input *in, size_t width)
{
    uint64_t v = 0;
    for (; width > 0 && in->n > 0; width--, in->p++, in->n--)
        v = v << 8 | *in->p;
    return v;
}

/* A length byte and so many bytes, or one word again and again. Ends in NUL. */
static const char *string(struct input *in)
{
    static char s[MAX_STRING + 1];
    size_t len = (size_t)number(in, 1), n = len < in->n ? len : in->n;
    if (len >= 250 && in->n) {
        memset(s, in->p[0], MAX_STRING);
        s[(len - 249) * 1000] = '\0';
        return s;
    }
    memcpy(s, in->p, n);
    s[n] = '\0';
    in->p += n;
    in->n -= n;
    return s;
}

static const char *key(struct input *in)
{
    static const char *const known[] = {"Name",
                                        "Uri",
                                        "Fd",
                                        "SampleIntervalUSec",
                                        "WindowUSec",
                                        "TokensPerFrame",
                                        "Instruction",
                                        "Reducer",
                                        "Policy",
                                        "Gate",
                                        "Captions",
                                        "Loop",
                                        "Realtime",
                                        "Lifetime",
                                        "name",
                                        "Instruktion",
                                        "",
                                        "d",
                                        "h"};
    const size_t n = sizeof(known) / sizeof(*known);
    size_t i = (size_t)number(in, 1);
    return i < n ? known[i] : string(in);
}

static int some_fd(unsigned which)
{
    static int fd[6];
    int ends[2];
    if (!fd[0]) {
        fd[0] = memfd_create("clip", MFD_CLOEXEC);
        fd[1] = memfd_create("empty", MFD_CLOEXEC);
        FUZZ_CHECK(ftruncate(fd[0], 100) == 0 && pipe2(ends, O_CLOEXEC) == 0);
        fd[2] = ends[0];
        fd[3] = open("/dev/null", O_RDWR | O_CLOEXEC);
        fd[4] = open("/", O_PATH | O_CLOEXEC);
        fd[5] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    }
    return fd[which % 6];
}

static const char *word(struct input *in)
{
    static const char *const words[] = {"test:?seconds=3", "none",           "change",
                                        "daemon",          "client",         "file:///etc/shadow",
                                        "front-door",      "test:! fakesink"};
    size_t i = in->n ? in->p[0] : 255;
    if (i >= sizeof(words) / sizeof(*words))
        return string(in);
    (void)number(in, 1);
    return words[i];
}

static int append_value(sd_bus_message *m, struct input *in)
{
    double d;
    uint64_t v;
    switch (number(in, 1) % 12) {
    case 0:
        return sd_bus_message_append(m, "v", "s", word(in));
    case 1:
        return sd_bus_message_append(m, "v", "u", (uint32_t)number(in, 4));
    case 2:
        return sd_bus_message_append(m, "v", "t", number(in, 8));
    case 3:
        v = number(in, 8);
        memcpy(&d, &v, sizeof(d));
        return sd_bus_message_append(m, "v", "d", d);
    case 4:
        return sd_bus_message_append(m, "v", "b", (int)number(in, 1));
    case 5:
        return sd_bus_message_append(m, "v", "h", some_fd((unsigned)number(in, 1)));
    case 6:
        return sd_bus_message_append(m, "v", "as", 2, "a", word(in));
    case 7:
        return sd_bus_message_append(m, "v", "v", "s", word(in));
    case 8:
        return sd_bus_message_append(m, "v", "(st)", word(in), number(in, 8));
    case 9:
        return sd_bus_message_append(m, "v", "o", "/org/vlmd/Vision1");
    case 10:
        return sd_bus_message_append(m, "v", "a{sv}", 1, "x", "i", -1);
    default:
        return sd_bus_message_append(m, "v", "g", "a{sv}");
    }
}

static int append_dictionary(sd_bus_message *m, struct input *in)
{
    int r = sd_bus_message_open_container(m, 'a', "{sv}");
    for (int i = 0; r >= 0 && in->n && i < MAX_ENTRIES; i++) {
        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
            r = sd_bus_message_append(m, "s", key(in));
        if (r >= 0)
            r = append_value(m, in);
        if (r >= 0)
            r = sd_bus_message_close_container(m);
    }
    return r < 0 ? r : sd_bus_message_close_container(m);
}

static sd_bus *connection(void)
{
    static sd_bus *bus;
    int fd[2];
    if (bus)
        return bus;
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) == 0);
    FUZZ_CHECK(sd_bus_new(&bus) >= 0 && sd_bus_set_fd(bus, fd[0], fd[0]) >= 0 && sd_bus_start(bus) >= 0);
    return bus;
}

static sd_bus_message *new_message(void)
{
    sd_bus_message *m = NULL;
    FUZZ_CHECK(sd_bus_message_new_signal(connection(), &m, "/a", "a.b", "C") >= 0);
    return m;
}

/* ---- readers ---- */

/* An error has a name or a number; what was read without one keeps its promises and can be told again. */
static void read_spec(sd_bus_message *m, bool changes)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    struct vl_stream_spec s;
    struct vl_error err;
    vl_stream_spec_init(&s);
    if (changes)
        FUZZ_CHECK((s.name = strdup("a")) && (s.uri = strdup("test:")));
    int r = changes ? vl_stream_spec_read_changes(m, &s, &e) : vl_stream_spec_read(m, &s, &e);
    if (r >= 0) {
        sd_bus_message *reply = new_message();
        FUZZ_CHECK(vl_stream_spec_check(&s, &err) == 0);
        FUZZ_CHECK(s.uri ? s.fd < 0 : s.fd >= 3);
        FUZZ_CHECK(vl_stream_spec_append(reply, &s) >= 0 && sd_bus_message_seal(reply, 1, 0) >= 0);
        sd_bus_message_unref(reply);
    }
    sd_bus_error_free(&e);
    vl_stream_spec_done(&s);
}

static void read_types(sd_bus_message *m)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    const char *s = "", *g = "";
    uint32_t u = 0;
    uint64_t t = 0;
    double d = 0;
    int b = 0, h = -1;
    struct vl_option o[] = {
        {"Name", 's', &s, false},       {"Gate", 's', &g, false}, {"TokensPerFrame", 'u', &u, false},
        {"WindowUSec", 't', &t, false}, {"d", 'd', &d, false},    {"Loop", 'b', &b, false},
        {"h", 'h', &h, false}};
    if (vl_options_read(m, o, sizeof(o) / sizeof(*o), &e) >= 0)
        FUZZ_CHECK(strlen(s) + strlen(g) < SIZE_MAX && (b == 0 || b == 1) && (h == -1) == !o[6].seen);
    sd_bus_error_free(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    unsigned which = (unsigned)number(&in, 1);
    sd_bus_message *m = new_message();
    int r = which & 4 ? sd_bus_message_append(m, "su", word(&in), 7) : append_dictionary(m, &in);
    if (r >= 0 && sd_bus_message_seal(m, 1, 0) >= 0 && sd_bus_message_rewind(m, true) >= 0) {
        if (which % 4 == 2)
            read_types(m);
        else
            read_spec(m, which % 4 == 1);
    }
    sd_bus_message_unref(m);
    return 0;
}
