/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_SERVICE_H
#define VL_DAEMON_SERVICE_H
#include "daemon/manager.h"

/* The life of the service as systemd sees it: READY=1 when the model can answer, STATUS= lines, a watchdog
 * that is fed by progress, and an orderly end. Without systemd only the end is left of it. One owner, main
 * thread. */
struct vl_service;
/* Handles SIGTERM and SIGINT, which must be blocked already: the first ends in order (answers have 5 s,
 * children 3 s), the second at once. The loop then returns 0. */
int vl_service_new(struct vl_service **ret, struct vl_manager *m);
void vl_service_stop(struct vl_service *s); /* as SIGTERM does */
struct vl_service *vl_service_unref(struct vl_service *s);
VL_DEFINE_AUTO(vl_service)
#endif
