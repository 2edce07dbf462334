/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* D-Bus values as JSON. The daemon's messages are trusted no more than their type codes, so depth is bounded.
 */
#include "cli/value.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 16 };

static int read_any(sd_bus_message *m, cJSON **ret, int depth);

static int read_basic(sd_bus_message *m, char type, cJSON **ret)
{
    union {
        uint8_t y;
        int b;
        int16_t n;
        uint16_t q;
        int32_t i;
        uint32_t u;
        int64_t x;
        uint64_t t;
        double d;
        const char *s;
    } v;
    int r = sd_bus_message_read_basic(m, type, &v);
    if (r < 0)
        return r;
    switch (type) {
    case 'y':
        *ret = cJSON_CreateNumber(v.y);
        break;
    case 'b':
        *ret = cJSON_CreateBool(v.b);
        break;
    case 'n':
        *ret = cJSON_CreateNumber(v.n);
        break;
    case 'q':
        *ret = cJSON_CreateNumber(v.q);
        break;
    case 'i':
    case 'h':
        *ret = cJSON_CreateNumber(v.i);
        break;
    case 'u':
        *ret = cJSON_CreateNumber(v.u);
        break;
    case 'x':
        *ret = cJSON_CreateNumber((double)v.x);
        break;
    case 't':
        *ret = cJSON_CreateNumber((double)v.t);
        break;
    case 'd':
        *ret = cJSON_CreateNumber(v.d);
        break;
    default: /* s, o, g */
        *ret = cJSON_CreateString(v.s);
        break;
    }
    return *ret ? 0 : -ENOMEM;
}

/* contents: "{sv}"; an entry's own signature is what stands between the braces. */
static int read_dict(sd_bus_message *m, const char *contents, cJSON *into, int depth)
{
    char entry[64];
    int r;
    (void)snprintf(entry, sizeof(entry), "%.*s", (int)strlen(contents) - 2, contents + 1);
    while ((r = sd_bus_message_enter_container(m, 'e', entry)) > 0) {
        char type;
        const char *key;
        cJSON *value = NULL;
        if ((r = sd_bus_message_peek_type(m, &type, NULL)) < 0 ||
            (r = sd_bus_message_read_basic(m, type, &key)) < 0 || (r = read_any(m, &value, depth)) < 0)
            return r;
        if (!cJSON_AddItemToObject(into, key, value)) {
            cJSON_Delete(value);
            return -ENOMEM;
        }
        if ((r = sd_bus_message_exit_container(m)) < 0)
            return r;
    }
    return r;
}

static int read_list(sd_bus_message *m, cJSON *into, int depth)
{
    while (!sd_bus_message_at_end(m, 0)) {
        cJSON *value = NULL;
        int r = read_any(m, &value, depth);
        if (r < 0)
            return r;
        if (!cJSON_AddItemToArray(into, value)) {
            cJSON_Delete(value);
            return -ENOMEM;
        }
    }
    return 0;
}

static int read_any(sd_bus_message *m, cJSON **ret, int depth)
{
    char type;
    const char *contents;
    if (depth > MAX_DEPTH)
        return -ELOOP;
    int r = sd_bus_message_peek_type(m, &type, &contents);
    if (r < 0)
        return r;
    if (r == 0)
        return -ENODATA;
    if (type != 'a' && type != 'v' && type != 'r')
        return read_basic(m, type, ret);
    bool dict = type == 'a' && contents[0] == '{' && (contents[1] == 's' || contents[1] == 'o');
    if ((r = sd_bus_message_enter_container(m, type, contents)) < 0)
        return r;
    if (type == 'v') {
        r = read_any(m, ret, depth + 1);
    } else {
        *ret = dict ? cJSON_CreateObject() : cJSON_CreateArray();
        r = !*ret ? -ENOMEM : dict ? read_dict(m, contents, *ret, depth + 1) : read_list(m, *ret, depth + 1);
    }
    if (r >= 0)
        r = sd_bus_message_exit_container(m);
    if (r < 0) {
        cJSON_Delete(*ret);
        *ret = NULL;
        return r;
    }
    return 0;
}

int vl_value_read(sd_bus_message *m, cJSON **ret)
{
    *ret = NULL;
    return read_any(m, ret, 0);
}

const char *vl_value_str(const cJSON *o, const char *key, const char *def)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsString(v) ? v->valuestring : def;
}

double vl_value_num(const cJSON *o, const char *key, double def)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : cJSON_IsBool(v) ? cJSON_IsTrue(v) : def;
}

int vl_value_print(const cJSON *v)
{
    char *s = cJSON_Print(v);
    if (!s)
        return VL_EXIT_FAILED;
    (void)puts(s);
    cJSON_free(s);
    return VL_EXIT_OK;
}

void vl_value_show(const cJSON *v, const char *indent)
{
    const cJSON *m;
    if (cJSON_IsObject(v)) {
        (void)printf("%s%s\n", indent, v->string);
        cJSON_ArrayForEach(m, v) vl_value_show(m, "    ");
    } else if (cJSON_IsString(v)) {
        (void)printf("%s%-20s %s\n", indent, v->string, v->valuestring);
    } else if (cJSON_IsBool(v)) {
        (void)printf("%s%-20s %s\n", indent, v->string, cJSON_IsTrue(v) ? "yes" : "no");
    } else if (cJSON_IsNumber(v)) {
        (void)printf("%s%-20s %.*f\n", indent, v->string,
                     v->valuedouble == (double)(int64_t)v->valuedouble ? 0 : 3, v->valuedouble);
    }
}

static int finish(struct vl_ctl *c, const char *what, int r, sd_bus_error *e, sd_bus_message *reply,
                  cJSON **ret)
{
    if (r >= 0)
        r = vl_value_read(reply, ret);
    int code = r < 0 ? vl_ctl_failed(c, what, e, r) : 0;
    sd_bus_error_free(e);
    (void)sd_bus_message_unref(reply);
    return code;
}

int vl_value_properties(struct vl_ctl *c, const char *path, const char *iface, cJSON **ret)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    int r = sd_bus_call_method(c->bus, VL_BUS_NAME, path, VL_BUS_PROPS, "GetAll", &e, &reply, "s", iface);
    return finish(c, path, r, &e, reply, ret);
}

int vl_value_call(struct vl_ctl *c, const char *path, const char *iface, const char *method, cJSON **ret)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    int r = sd_bus_call_method(c->bus, VL_BUS_NAME, path, iface, method, &e, &reply, NULL);
    return finish(c, method, r, &e, reply, ret);
}

/* Moves the members of from's object `iface` into `into`; a member that is there already stays. */
static void merge(cJSON *into, cJSON *from, const char *iface)
{
    cJSON *props = cJSON_GetObjectItemCaseSensitive(from, iface), *m;
    while (props && (m = props->child)) {
        (void)cJSON_DetachItemViaPointer(props, m);
        if (cJSON_HasObjectItem(into, m->string) || !cJSON_AddItemToObject(into, m->string, m))
            cJSON_Delete(m);
    }
}

/* The bus knows no order of objects; people do. */
static bool insert_by_name(cJSON *list, cJSON *s)
{
    const char *name = vl_value_str(s, "Name", "");
    int i = 0, n = cJSON_GetArraySize(list);
    while (i < n && strcmp(vl_value_str(cJSON_GetArrayItem(list, i), "Name", ""), name) <= 0)
        i++;
    return i < n ? cJSON_InsertItemInArray(list, i, s) : cJSON_AddItemToArray(list, s);
}

/* Of every object that has iface: its properties, and those of `also` (NULL: none). */
static int list_objects(struct vl_ctl *c, const char *iface, const char *also, cJSON **ret)
{
    cJSON *objects = NULL, *list = cJSON_CreateArray(), *o;
    int code =
        vl_value_call(c, VL_BUS_ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", &objects);
    if (code || !list) {
        cJSON_Delete(list);
        cJSON_Delete(objects);
        return code ? code : vl_ctl_failed(c, iface, NULL, -ENOMEM);
    }
    cJSON_ArrayForEach(o, objects)
    {
        if (!cJSON_HasObjectItem(o, iface))
            continue;
        cJSON *s = cJSON_CreateObject();
        merge(s, o, iface);
        if (also)
            merge(s, o, also);
        if (!insert_by_name(list, s))
            cJSON_Delete(s);
    }
    cJSON_Delete(objects);
    *ret = list;
    return 0;
}

int vl_value_streams(struct vl_ctl *c, cJSON **ret)
{
    return list_objects(c, VL_IFACE("Stream"), VL_IFACE("Captions"), ret);
}

int vl_value_models(struct vl_ctl *c, cJSON **ret)
{
    return list_objects(c, VL_IFACE("Model"), NULL, ret);
}

static bool is_default(const char *name, const cJSON *manager)
{
    char *path = NULL;
    bool is = sd_bus_path_encode(VL_BUS_ROOT "/model", name, &path) >= 0 &&
              !strcmp(path, vl_value_str(manager, "DefaultModel", ""));
    free(path);
    return is;
}

void vl_value_print_model(const cJSON *model, const cJSON *manager)
{
    const char *name = vl_value_str(model, "Name", "?"), *state = vl_value_str(model, "State", "?");
    (void)printf("%c %-28s %s", is_default(name, manager) ? '*' : ' ', name, state);
    if (!strcmp(state, "loading"))
        (void)printf("  %3.0f %%", 100 * vl_value_num(model, "LoadProgress", 0));
    else if (!strcmp(state, "ready"))
        (void)printf("  %8.1f MiB  %s (%s, %s)%s", vl_value_num(model, "ResidentBytes", 0) / (1024 * 1024),
                     vl_value_str(model, "Title", ""), vl_value_str(model, "Architecture", ""),
                     vl_value_str(model, "Quantization", ""),
                     vl_value_num(model, "Vision", 0) ? "" : ", text only");
    else if (!strcmp(state, "failed"))
        (void)printf("  %s", vl_value_str(model, "Error", ""));
    (void)putchar('\n');
}
