/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Which models are offered: those of models.d, the pair of the command line, the built-in pair, and pairs
 * that lie in a model folder. By their names alone: no model file is opened here. Trap: one whose file is
 * nowhere is offered all the same, and loading it says what is missing.
 */
#include "base/log.h"
#include "base/params.h"
#include "daemon/config.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define BUILTIN "builtin"
enum { MAX_PATH = 4096, N_FOLDERS = 3, MAX_MODELS = 256 };

/* Where models lie, the nearest first. -ENAMETOOLONG: that one is not looked at. */
static int model_folder(const struct vl_config *c, size_t i, char path[static MAX_PATH])
{
    static const char *const fixed[] = {"/var/lib/vlmd/models", VLMD_DATADIR "/models"};
    int n =
        i == 0 ? snprintf(path, MAX_PATH, "%s/models", c->dir) : snprintf(path, MAX_PATH, "%s", fixed[i - 1]);
    return n >= MAX_PATH ? -ENAMETOOLONG : 0;
}

static char *join(const char *folder, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* A bare name is searched in the model folders; what is nowhere is left as it is, and the engine says so. */
static int find_file(const struct vl_config *c, char **inout)
{
    char folder[MAX_PATH];
    if (!*inout || strchr(*inout, '/'))
        return 0;
    for (size_t i = 0; i < N_FOLDERS; i++) {
        if (model_folder(c, i, folder) < 0)
            continue;
        char *path = join(folder, *inout);
        if (!path)
            return -ENOMEM;
        if (access(path, R_OK) == 0) {
            free(*inout);
            *inout = path;
            return 0;
        }
        free(path);
    }
    return 0;
}

/* projector NULL: none. */
static int add(struct vl_config *c, const char *name, size_t n_name, const char *text, const char *projector,
               bool keep)
{
    struct vl_model_config m = {.name = strndup(name, n_name),
                                .text = strdup(text),
                                .projector = projector ? strdup(projector) : NULL};
    int r = m.name && m.text && !projector == !m.projector ? vl_config_add_model(c, &m, keep) : -ENOMEM;
    free(m.name);
    free(m.text);
    free(m.projector);
    return r;
}

/* ---- the built-in pair, and pairs in the folders ---- */

static int add_builtin(struct vl_config *c)
{
    static const char text[] = VLMD_DATADIR "/models/" VLMD_BUILTIN_TEXT,
                      projector[] = VLMD_DATADIR "/models/" VLMD_BUILTIN_PROJECTOR;
    if (access(text, R_OK) < 0)
        return 0;
    return add(c, BUILTIN, strlen(BUILTIN), text, projector, true);
}

static int is_gguf(const struct dirent *e)
{
    const char *dot = strrchr(e->d_name, '.');
    return e->d_name[0] != '.' && dot && !strcmp(dot, ".gguf");
}

static bool is_projector(const char *name)
{
    return !strncmp(name, "mmproj-", 7);
}

/* "mmproj-F.gguf", else the first of "mmproj-F*.gguf" by name, where F is n bytes of text and ends there:
 * "mmproj-Cat2" is none of "Cat". */
static const char *projector_named(const char *text, size_t n, struct dirent *const *file, int n_files)
{
    const char *first = NULL;
    for (int i = 0; i < n_files; i++) {
        const char *name = file[i]->d_name;
        if (!is_projector(name) || strncmp(name + 7, text, n) != 0 || !strchr("-_.", name[7 + n]))
            continue;
        if (!strcmp(name + 7 + n, ".gguf"))
            return name;
        first = first ? first : name;
    }
    return first;
}

/* "Cat-Q4_K_M": where "-Q4_K_M" begins, as the same projector serves all formats of the text; else n. */
static size_t without_format(const char *text, size_t n)
{
    size_t i = n;
    while (i > 0 && text[i - 1] != '-' && text[i - 1] != '.')
        i--;
    const char *format = text + i;
    if (i < 2)
        return n;
    format += !strncasecmp(format, "IQ", 2) || !strncasecmp(format, "BF", 2);
    return strchr("QqFf", *format) && format[1] >= '1' && format[1] <= '9' ? i - 1 : n;
}

static const char *projector_of(const char *text, size_t n_stem, struct dirent *const *file, int n)
{
    const char *own = projector_named(text, n_stem, file, n);
    return own ? own : projector_named(text, without_format(text, n_stem), file, n);
}

static int add_pairs(struct vl_config *c, const char *folder, struct dirent *const *file, int n)
{
    for (int i = 0; i < n; i++) {
        const char *name = file[i]->d_name, *projector;
        size_t n_stem = strlen(name) - strlen(".gguf");
        if (is_projector(name) || !(projector = projector_of(name, n_stem, file, n)))
            continue;
        if (c->n_models >= MAX_MODELS) {
            vl_log(VL_LOG_WARNING, "config", "%s: more than %d models, the rest is left out", folder,
                   MAX_MODELS);
            return 0;
        }
        vl_autofree char *text_path = join(folder, name), *projector_path = join(folder, projector);
        int r = text_path && projector_path ? add(c, name, n_stem, text_path, projector_path, true) : -ENOMEM;
        if (r < 0)
            return r;
    }
    return 0;
}

static int search_folder(struct vl_config *c, size_t i)
{
    char folder[MAX_PATH];
    struct dirent **file = NULL;
    if (model_folder(c, i, folder) < 0)
        return 0;
    int n = scandir(folder, &file, is_gguf, alphasort);
    if (n < 0)
        return errno == ENOMEM ? -ENOMEM : 0; /* it is not there, or not ours to read: nothing is offered */
    int r = add_pairs(c, folder, file, n);
    for (int k = 0; k < n; k++)
        free(file[k]);
    free(file);
    return r;
}

/* ---- the default ---- */

/* "; did you mean 'x'?" or nothing, into buf. */
static const char *hint(const struct vl_config *c, const char *name, char buf[static 128])
{
    const char *known[MAX_MODELS];
    size_t n = 0;
    for (; n < c->n_models && n < MAX_MODELS; n++)
        known[n] = c->model[n].name;
    const char *near = vl_nearest(name, known, n);
    (void)snprintf(buf, 128, "%s%.90s%s", near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return buf;
}

static int no_such_default(const struct vl_config *c, struct vl_error *err)
{
    char near[128];
    return vl_error_set(
        err, -EINVAL,
        "DefaultModel=%s: there is no %s/models.d/%s.model, and no such pair in a model folder%s",
        c->default_model, c->dir, c->default_model, hint(c, c->default_model, near));
}

static int check_streams(const struct vl_config *c, struct vl_error *err)
{
    char near[128];
    for (size_t i = 0; i < c->n_streams; i++) {
        const struct vl_stream_spec *s = &c->stream[i];
        if (s->model && !vl_config_model(c, s->model))
            return vl_error_set(err, -EINVAL, "%s/streams.d/%s.stream: Model=%s: there is no such model%s",
                                c->dir, s->name, s->model, hint(c, s->model, near));
    }
    return 0;
}

/* The one that was asked for, else the built-in one, else the only one. */
static int choose_default(struct vl_config *c, struct vl_error *err)
{
    if (c->default_model)
        return vl_config_model(c, c->default_model) ? 0 : no_such_default(c, err);
    const char *name = vl_config_model(c, BUILTIN) ? BUILTIN : c->n_models == 1 ? c->model[0].name : NULL;
    c->default_model = name ? strdup(name) : NULL;
    return name && !c->default_model ? -ENOMEM : 0;
}

static int add_given(struct vl_config *c, const struct vl_config_from *from)
{
    static const char name[] = "default";
    int r = add(c, name, strlen(name), from->text, from->projector, false);
    free(c->default_model);
    c->default_model = strdup(name);
    return r < 0 || c->default_model ? r : -ENOMEM;
}

int vl_config_find_models(struct vl_config *c, const struct vl_config_from *from, struct vl_error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->n_models; i++)
        if ((r = find_file(c, &c->model[i].text)) == 0)
            r = find_file(c, &c->model[i].projector);
    if (r == 0 && from->text)
        r = add_given(c, from);
    if (r == 0)
        r = add_builtin(c);
    for (size_t i = 0; r == 0 && i < N_FOLDERS; i++)
        r = search_folder(c, i);
    return r < 0 || (r = choose_default(c, err)) < 0 ? r : check_streams(c, err);
}
