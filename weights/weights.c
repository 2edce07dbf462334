/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* An opened model file: the descriptor, the checked head, typed access to it, and pread of tensor data. Any
 * thread may use it after open; process lifetime, or shorter when only binding needs it. The trap: everything
 * but lengths and positions that the reader has checked is still the file's word; values are checked where
 * they are asked for. */
#include "weights/weights.h"
#include "weights/gguf.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_LINKS = 8, NAME_SIZE = 96 };

struct vl_weights {
    atomic_int refs;
    int fd;
    struct vl_gguf g;
    char name[NAME_SIZE];
};

/* --- opening --- */

/* What stands behind the link at path: path becomes it. inout_owner: an owner met on the way who is neither
 * root nor us, or -1; he must own the file in the end. */
static int follow(char path[PATH_MAX], uid_t *inout_owner, struct vl_error *err)
{
    struct stat st;
    char target[PATH_MAX];
    if (lstat(path, &st) < 0)
        return vl_error_set(err, -errno, "cannot look at '%.120s': %m", path);
    ssize_t n = readlink(path, target, sizeof(target) - 1);
    if (n < 0)
        return vl_error_set(err, -errno, "cannot read the link '%.120s': %m", path);
    target[n] = '\0';
    if (st.st_uid != 0 && st.st_uid != geteuid()) {
        if (*inout_owner != (uid_t)-1 && *inout_owner != st.st_uid)
            return vl_error_set(err, -EPERM, "links of several owners lead to '%.120s'; name the file itself",
                                target);
        *inout_owner = st.st_uid;
    }
    char *slash = strrchr(path, '/');
    size_t dir = target[0] == '/' || !slash ? 0 : (size_t)(slash - path) + 1;
    if (dir + (size_t)n >= PATH_MAX)
        return vl_error_set(err, -ENAMETOOLONG, "the link '%.120s' leads too far", path);
    memcpy(path + dir, target, (size_t)n + 1);
    return 0;
}

static int open_path(const char *path, int *ret, struct vl_error *err)
{
    char at[PATH_MAX];
    struct stat st;
    uid_t owner = (uid_t)-1;
    if (strlen(path) >= sizeof(at))
        return vl_error_set(err, -ENAMETOOLONG, "path of %zu bytes", strlen(path));
    memcpy(at, path, strlen(path) + 1);
    for (int i = 0; i <= MAX_LINKS; i++) {
        /* O_NONBLOCK: a FIFO without a writer must not hold us */
        vl_autofd fd = open(at, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
        if (fd < 0 && errno != ELOOP)
            return vl_error_set(err, -errno, "cannot open '%.130s': %m%s", at,
                                errno == EACCES ? "; may we read it, and enter each folder above it?" : "");
        if (fd < 0) {
            int r = follow(at, &owner, err);
            if (r < 0)
                return r;
            continue;
        }
        if (owner != (uid_t)-1 && (fstat(fd, &st) < 0 || st.st_uid != owner))
            return vl_error_set(
                err, -EPERM,
                "'%.100s' is a link made by user %u, who does not own what it leads to; name the "
                "file itself",
                path, (unsigned)owner);
        *ret = vl_steal_fd(&fd);
        return 0;
    }
    return vl_error_set(err, -ELOOP, "'%.150s' leads through more than %d links", path, MAX_LINKS);
}

/* Takes over fd, also on failure. */
static int new_of_fd(struct vl_weights **ret, int fd_taken, const char *name, struct vl_error *err)
{
    vl_autofd fd = fd_taken;
    struct stat st;
    const char *base = strrchr(name, '/');
    if (fstat(fd, &st) < 0)
        return vl_error_set(err, -errno, "%.90s: cannot look at it: %m", name);
    if (!S_ISREG(st.st_mode))
        return vl_error_set(err, -EINVAL, "%.90s is %s; a model is a regular file, named .gguf", name,
                            S_ISDIR(st.st_mode) ? "a folder" : "a device, pipe or socket");
    struct vl_weights *w = calloc(1, sizeof(*w));
    if (!w)
        return vl_error_set(err, -ENOMEM, "%.90s: no memory", name);
    (void)strncat(w->name, base && base[1] ? base + 1 : name, sizeof(w->name) - 1);
    int r = vl_gguf_parse(&w->g, fd, (uint64_t)st.st_size, err);
    if (r < 0) {
        free(w);
        return vl_error_prefix(err, r, "%s", base && base[1] ? base + 1 : name);
    }
    atomic_init(&w->refs, 1);
    w->fd = vl_steal_fd(&fd);
    *ret = w;
    return 0;
}

int vl_weights_open(struct vl_weights **ret, const char *path, struct vl_error *err)
{
    int fd = -1;
    int r = open_path(path, &fd, err);
    return r < 0 ? r : new_of_fd(ret, fd, path, err);
}

int vl_weights_open_fd(struct vl_weights **ret, int fd, const char *name, struct vl_error *err)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return vl_error_set(err, -errno, "%.90s: cannot duplicate its descriptor: %m", name);
    return new_of_fd(ret, own, name, err);
}

struct vl_weights *vl_weights_ref(struct vl_weights *w)
{
    (void)atomic_fetch_add_explicit(&w->refs, 1, memory_order_relaxed);
    return w;
}

struct vl_weights *vl_weights_unref(struct vl_weights *w)
{
    if (!w || atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) > 1)
        return NULL;
    vl_gguf_done(&w->g);
    (void)close(w->fd); /* read only: nothing can be lost */
    free(w);
    return NULL;
}

const char *vl_weights_name(const struct vl_weights *w)
{
    return w->name;
}

/* --- metadata --- */

/* elem: what an array holds, VL_GGUF_TYPE_COUNT for a scalar. *ret NULL: absent. */
static int find_key(const struct vl_weights *w, const char *key, uint8_t type, uint8_t elem,
                    const struct vl_gguf_key **ret, struct vl_error *err)
{
    const struct vl_gguf_key *k = vl_gguf_find(&w->g, key);
    if (!k)
        return VL_WEIGHTS_ABSENT;
    if (k->type != type || (type == VL_GGUF_ARRAY && k->elem != elem)) {
        bool is = k->type == VL_GGUF_ARRAY, must = type == VL_GGUF_ARRAY;
        return vl_error_set(err, -EINVAL, "%s: key '%s' is of type %s%s, must be %s%s", w->name, key,
                            is ? "array of " : "", vl_gguf_type_name(is ? k->elem : k->type),
                            must ? "array of " : "", vl_gguf_type_name(must ? elem : type));
    }
    *ret = k;
    return 0;
}

static uint32_t load32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int get32(const struct vl_weights *w, const char *key, uint8_t type, void *ret, struct vl_error *err)
{
    const struct vl_gguf_key *k = NULL;
    int r = find_key(w, key, type, VL_GGUF_TYPE_COUNT, &k, err);
    if (r != 0)
        return r;
    uint32_t v = load32(w->g.head + k->value);
    memcpy(ret, &v, sizeof(v));
    return 0;
}

int vl_weights_get_u32(const struct vl_weights *w, const char *key, uint32_t *ret, struct vl_error *err)
{
    return get32(w, key, VL_GGUF_U32, ret, err);
}

int vl_weights_get_i32(const struct vl_weights *w, const char *key, int32_t *ret, struct vl_error *err)
{
    return get32(w, key, VL_GGUF_I32, ret, err);
}

int vl_weights_get_f32(const struct vl_weights *w, const char *key, float *ret, struct vl_error *err)
{
    return get32(w, key, VL_GGUF_F32, ret, err);
}

int vl_weights_get_bool(const struct vl_weights *w, const char *key, bool *ret, struct vl_error *err)
{
    const struct vl_gguf_key *k = NULL;
    int r = find_key(w, key, VL_GGUF_BOOL, VL_GGUF_TYPE_COUNT, &k, err);
    if (r != 0)
        return r;
    *ret = w->g.head[k->value];
    return 0;
}

int vl_weights_get_str(const struct vl_weights *w, const char *key, const char **ret, struct vl_error *err)
{
    const struct vl_gguf_key *k = NULL;
    int r = find_key(w, key, VL_GGUF_STR, VL_GGUF_TYPE_COUNT, &k, err);
    if (r != 0)
        return r;
    if (strlen(k->str) != k->n)
        return vl_error_set(err, -EINVAL, "%s: key '%s' holds a zero byte", w->name, key);
    *ret = k->str;
    return 0;
}

static int missing(const struct vl_weights *w, const char *key, struct vl_error *err)
{
    return vl_error_set(err, -EINVAL, "%s: key '%s' is missing; wrong file, or made by an old converter?",
                        w->name, key);
}

int vl_weights_need_u32(const struct vl_weights *w, const char *key, uint32_t min, uint32_t max,
                        uint32_t *ret, struct vl_error *err)
{
    uint32_t v = 0;
    int r = vl_weights_get_u32(w, key, &v, err);
    if (r == VL_WEIGHTS_ABSENT)
        return missing(w, key, err);
    if (r == 0 && (v < min || v > max))
        return vl_error_set(err, -EINVAL, "%s: key '%s' is %u, must be %u to %u", w->name, key, v, min, max);
    if (r == 0)
        *ret = v;
    return r;
}

int vl_weights_need_f32(const struct vl_weights *w, const char *key, float min, float max, float *ret,
                        struct vl_error *err)
{
    float v = 0;
    int r = vl_weights_get_f32(w, key, &v, err);
    if (r == VL_WEIGHTS_ABSENT)
        return missing(w, key, err);
    if (r == 0 && (!isfinite(v) || v < min || v > max))
        return vl_error_set(err, -EINVAL, "%s: key '%s' is %g, must be %g to %g", w->name, key, (double)v,
                            (double)min, (double)max);
    if (r == 0)
        *ret = v;
    return r;
}

int vl_weights_need_str(const struct vl_weights *w, const char *key, const char **ret, struct vl_error *err)
{
    int r = vl_weights_get_str(w, key, ret, err);
    return r == VL_WEIGHTS_ABSENT ? missing(w, key, err) : r;
}

bool vl_weights_is_array(const struct vl_weights *w, const char *key)
{
    const struct vl_gguf_key *k = vl_gguf_find(&w->g, key);
    return k && k->type == VL_GGUF_ARRAY;
}

int vl_weights_array_len(const struct vl_weights *w, const char *key, uint32_t *ret, struct vl_error *err)
{
    const struct vl_gguf_key *k = vl_gguf_find(&w->g, key);
    if (!k)
        return VL_WEIGHTS_ABSENT;
    if (k->type != VL_GGUF_ARRAY)
        return vl_error_set(err, -EINVAL, "%s: key '%s' is of type %s, must be an array", w->name, key,
                            vl_gguf_type_name(k->type));
    *ret = k->n;
    return 0;
}

static int get32s(const struct vl_weights *w, const char *key, uint8_t elem, void *ret, uint32_t n,
                  struct vl_error *err)
{
    const struct vl_gguf_key *k = NULL;
    int r = find_key(w, key, VL_GGUF_ARRAY, elem, &k, err);
    if (r != 0)
        return r;
    if (k->n != n)
        return vl_error_set(err, -EINVAL, "%s: key '%s' has %u elements, must have %u", w->name, key, k->n,
                            n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = load32(w->g.head + k->value + 4 * (size_t)i);
        memcpy((char *)ret + 4 * (size_t)i, &v, sizeof(v));
    }
    return 0;
}

int vl_weights_get_u32s(const struct vl_weights *w, const char *key, uint32_t *ret, uint32_t n,
                        struct vl_error *err)
{
    return get32s(w, key, VL_GGUF_U32, ret, n, err);
}

int vl_weights_get_i32s(const struct vl_weights *w, const char *key, int32_t *ret, uint32_t n,
                        struct vl_error *err)
{
    return get32s(w, key, VL_GGUF_I32, ret, n, err);
}

int vl_weights_get_f32s(const struct vl_weights *w, const char *key, float *ret, uint32_t n,
                        struct vl_error *err)
{
    return get32s(w, key, VL_GGUF_F32, ret, n, err);
}

int vl_weights_get_strs(const struct vl_weights *w, const char *key, struct vl_weights_strs *ret,
                        struct vl_error *err)
{
    const struct vl_gguf_key *k = NULL;
    int r = find_key(w, key, VL_GGUF_ARRAY, VL_GGUF_STR, &k, err);
    if (r != 0)
        return r;
    *ret = (struct vl_weights_strs){.at = w->g.head + k->value, .n = k->n, .n_left = k->n};
    return 0;
}

const char *vl_weights_next_str(struct vl_weights_strs *it, size_t *ret_len)
{
    const unsigned char *p = it->at;
    size_t len = load32(p); /* the reader has held the upper half to zero */
    it->at = p + 8 + len;
    it->n_left--;
    *ret_len = len;
    return (const char *)p + 8;
}

/* --- tensors --- */

uint32_t vl_weights_n_tensors(const struct vl_weights *w)
{
    return w->g.n_tensors;
}

const struct vl_weights_tensor *vl_weights_tensor_at(const struct vl_weights *w, uint32_t i)
{
    return &w->g.tensor[i];
}

static int compare_name(const void *name, const void *t)
{
    return strcmp(name, ((const struct vl_weights_tensor *)t)->name);
}

const struct vl_weights_tensor *vl_weights_find(const struct vl_weights *w, const char *name)
{
    return bsearch(name, w->g.tensor, w->g.n_tensors, sizeof(*w->g.tensor), compare_name);
}

int vl_weights_read(const struct vl_weights *w, const struct vl_weights_tensor *t, uint64_t from, void *ret,
                    size_t n, struct vl_error *err)
{
    if (from > t->size || n > t->size - from)
        return vl_error_set(err, -EINVAL, "%s: tensor '%s' has %llu bytes, not %llu + %zu", w->name, t->name,
                            (unsigned long long)t->size, (unsigned long long)from, n);
    for (size_t done = 0; done < n;) {
        uint64_t at = t->offset + from + done;
        ssize_t r = pread(w->fd, (char *)ret + done, n - done, (off_t)at);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return vl_error_set(err, -errno, "%s: byte %llu, tensor '%s': cannot read: %m", w->name,
                                (unsigned long long)at, t->name);
        if (r == 0)
            return vl_error_set(err, -EBADMSG,
                                "%s: byte %llu, tensor '%s': the file was cut short after it was opened",
                                w->name, (unsigned long long)at, t->name);
        done += (size_t)r;
    }
    return 0;
}
