/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_ACCESS_H
#define VL_DAEMON_ACCESS_H
#include "base/cleanup.h"
#include "daemon/manager.h"

/*
 * Who may do what on the system bus. A filter stands before all objects and holds a call back until it is
 * decided, so handlers need not ask: access.c has one table of methods, and a method that is not in it is
 * root's alone. Root, the daemon's own user and the owner of a stream are let through at once; for all others
 * polkit is asked while other calls go on. On a session bus every caller is who we are, and there is none of
 * this. Main thread, daemon lifetime.
 */
struct vl_access;
int vl_access_new(struct vl_access **ret, struct vl_manager *m); /* m is borrowed and outlives it */
/* A connection has left: what it waited for is dropped, and done for nobody. */
void vl_access_client_gone(struct vl_access *a, const struct vl_client *c);
struct vl_access *vl_access_unref(struct vl_access *a);
VL_DEFINE_AUTO(vl_access)
#endif
