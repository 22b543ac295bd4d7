/* SPDX-License-Identifier: MIT */
/* The tap for DNS: two programs in an object of their own. */
#ifndef NAMES_H
#define NAMES_H

#include "egress.h"

#ifndef __VMLINUX_H__
#include <stddef.h>
#endif

struct egress_tap;

/*
 * Loads the programs and attaches them to a cgroup; NULL with *error set. `tells_asker`: have them tell the process,
 * which some kernels refuse. `hellos`: beginnings of TLS and QUIC too. Words of libbpf and the verifier are for egress_log.
 */
struct egress_tap *egress_tap_open(const char *path, int cgroup_fd, __u32 ring_bytes, int tells_asker, int hellos,
				   int *error);
/* What waits (struct egress_dns, each at a multiple of 8), until the next call; a full megabyte may not be all. */
const void *egress_tap_read(struct egress_tap *self, size_t *bytes);
/* Records that the full ring had no room for. */
__u64 egress_tap_lost(struct egress_tap *self);
/* Detaches and lets go of everything. */
void egress_tap_close(struct egress_tap *self);

#endif
