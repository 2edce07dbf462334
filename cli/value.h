/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* D-Bus values as JSON: what --json prints, and what the verbs read, so that there is one way through a
 * message. */
#ifndef VL_CLI_VALUE_H
#define VL_CLI_VALUE_H
#include "cli/vlmctl.h"

#include <cjson/cJSON.h>
#include <systemd/sd-bus.h>

/* Reads the next complete value of m: dictionaries with string keys become objects, other arrays and structs
 * arrays, variants their content. *ret is the caller's (cJSON_Delete). Negative errno. */
int vl_value_read(sd_bus_message *m, cJSON **ret);

/* Members by name, with a default when absent or of another kind. Strings are borrowed from o. */
const char *vl_value_str(const cJSON *o, const char *key, const char *def);
double vl_value_num(const cJSON *o, const char *key, double def);

/* What the daemon says, as JSON the caller deletes; 0 or an exit code, the reason already on stderr. */
int vl_value_properties(struct vl_ctl *c, const char *path, const char *iface, cJSON **ret);
int vl_value_call(struct vl_ctl *c, const char *path, const char *iface, const char *method,
                  cJSON **ret); /* no arguments */
int vl_value_streams(struct vl_ctl *c,
                     cJSON **ret); /* array of objects: Stream and Captions properties, by name */
int vl_value_models(struct vl_ctl *c, cJSON **ret);
int vl_value_print(const cJSON *v);
void vl_value_print_model(const cJSON *model, const cJSON *manager); /* a line; '*': the default one */
void vl_value_show(const cJSON *v, const char *indent);              /* for people: a line a member */
#endif
