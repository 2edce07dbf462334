/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Who holds how much. One row a kind of thing, one account a uid that holds any. Where several users share
 * the daemon, a uid may take only its share of what is free, counting one user more than there are, so that
 * the next to come finds room too: dbus-broker's rule (src/util/user.c).
 */
#include "daemon/limits.h"

struct row {
    const char *name;
    uint32_t total, per_uid, per_connection; /* 0: no cap of its own */
    bool shared;
};

/* total of streams and queries is what the configuration says. */
static const struct row rows[VL_LIMIT_COUNT] = {
    /* Each holds a child process and a key-value window. */
    [VL_LIMIT_STREAMS] = {"streams", VL_LIMIT_ALL_STREAMS, VL_LIMIT_ALL_STREAMS, 0, false},
    /* Each holds pages of its fork while it runs; 8 a connection so that one program cannot take a user's
       all. */
    [VL_LIMIT_QUERIES] = {"questions", VL_LIMIT_ALL_QUERIES, 32, 8, true},
    /* Each holds a pipe and up to VL_LIMIT_PIPE_BYTES. */
    [VL_LIMIT_CAPTION_READERS] = {"caption readers", 64, 16, 0, false},
    /* Each holds a message, with up to 16 descriptors in it. */
    [VL_LIMIT_CHECKS] = {"calls that wait for polkit", 64, 16, 0, false},
};

struct account {
    uid_t uid;
    uint32_t used[VL_LIMIT_COUNT];
};
struct vl_limits {
    struct row row[VL_LIMIT_COUNT];
    uint32_t used[VL_LIMIT_COUNT];
    struct account *account;
    size_t n_accounts;
};

int vl_limits_new(struct vl_limits **ret, uint32_t max_streams, uint32_t max_queries, bool fair)
{
    struct vl_limits *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    for (size_t i = 0; i < VL_LIMIT_COUNT; i++) {
        l->row[i] = rows[i];
        l->row[i].shared = rows[i].shared && fair;
    }
    l->row[VL_LIMIT_STREAMS].total = max_streams;
    l->row[VL_LIMIT_STREAMS].per_uid = fair ? 8 : max_streams;
    l->row[VL_LIMIT_QUERIES].total = max_queries;
    *ret = l;
    return 0;
}

struct vl_limits *vl_limits_unref(struct vl_limits *l)
{
    if (l)
        free(l->account);
    free(l);
    return NULL;
}

static struct account *account_of(struct vl_limits *l, uid_t uid)
{
    for (size_t i = 0; i < l->n_accounts; i++)
        if (l->account[i].uid == uid)
            return &l->account[i];
    struct account *a = realloc(l->account, (l->n_accounts + 1) * sizeof(*a));
    if (!a)
        return NULL;
    l->account = a;
    l->account[l->n_accounts] = (struct account){.uid = uid};
    return &l->account[l->n_accounts++];
}

/* An account that holds nothing is forgotten, or a stream of uids would grow the list. */
static void settle(struct vl_limits *l, struct account *a)
{
    for (size_t i = 0; i < VL_LIMIT_COUNT; i++)
        if (a->used[i])
            return;
    *a = l->account[--l->n_accounts];
}

static uint32_t share_of(const struct vl_limits *l, enum vl_limit what, const struct account *a)
{
    uint32_t n_uids = a->used[what] ? 0 : 1;
    for (size_t i = 0; i < l->n_accounts; i++)
        n_uids += l->account[i].used[what] ? 1 : 0;
    uint32_t share = (l->row[what].total - l->used[what] + a->used[what]) / (n_uids + 1);
    return share ? share : 1;
}

static int refuse(struct vl_limits *l, struct account *a, struct vl_error *err, const char *fmt,
                  const char *name, uint32_t cap)
{
    settle(l, a);
    (void)vl_error_set(err, VL_LIMITS_OVER, "%u %s %s", cap, name, fmt);
    return VL_LIMITS_OVER;
}

int vl_limits_take(struct vl_limits *l, enum vl_limit what, uid_t uid, uint32_t on_connection,
                   struct vl_error *err)
{
    const struct row *row = &l->row[what];
    struct account *a = account_of(l, uid);
    if (!a)
        return vl_error_set(err, -ENOMEM, "out of memory");
    if (l->used[what] >= row->total)
        return refuse(l, a, err, "are all this daemon holds", row->name, row->total);
    if (a->used[what] >= row->per_uid)
        return refuse(l, a, err, "are all one user may hold", row->name, row->per_uid);
    if (row->per_connection && on_connection >= row->per_connection)
        return refuse(l, a, err, "are all one connection may hold", row->name, row->per_connection);
    if (row->shared && a->used[what] >= share_of(l, what, a))
        return refuse(l, a, err, "are this user's share now", row->name, share_of(l, what, a));
    a->used[what]++;
    l->used[what]++;
    return 0;
}

void vl_limits_give(struct vl_limits *l, enum vl_limit what, uid_t uid)
{
    struct account *a = account_of(l, uid);
    if (!a || !a->used[what])
        return; /* taken back twice would be our mistake; the sums stay right */
    a->used[what]--;
    l->used[what]--;
    settle(l, a);
}

uint32_t vl_limits_used(const struct vl_limits *l, enum vl_limit what)
{
    return l->used[what];
}

uint32_t vl_limits_total(const struct vl_limits *l, enum vl_limit what)
{
    return l->row[what].total;
}
