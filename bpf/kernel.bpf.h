/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The few kernel types and fields we use; CO-RE finds their real places in the running kernel's BTF. */
#ifndef KERNEL_BPF_H
#define KERNEL_BPF_H

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/types.h>
#include "egress.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

typedef _Bool bool;
#define true 1
#define false 0

#define AF_UNSPEC 0
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136
#define IPPROTO_RAW 255
#define TCP_ESTABLISHED 1
#define PF_KTHREAD 0x00200000
#define SIN_BYTES 16
#define SIN6_BYTES_RFC2133 24 /* the least that the kernel takes for an IPv6 address */
#define SIN6_BYTES 28

extern int LINUX_KERNEL_VERSION __kconfig;

/*
 * The same source makes two objects. For kernels with bpf_rdonly_cast (6.2, a35b9af4ec2c) any number becomes a pointer
 * that is loaded from in one instruction instead of sixty, and words are compared and swapped.
 */
#ifdef EGRESS_CAST
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym;
#define HAS_CAST true
#define CAST(type, number) ((type *)bpf_rdonly_cast((const void *)(number), bpf_core_type_id_kernel(type)))
#else
#define HAS_CAST false
#define CAST(type, number) ((type *)(number))
#endif

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__u32 u6_addr32[4];
	} in6_u;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct socket {
	short type;
	struct file *file;
	struct sock *sk;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	__u16 sk_protocol;
	__u16 sk_type;
	__u8 sk_kern_sock : 1;
};

struct inet_sock {
	__u8 hdrincl : 1;
};

/* cafbe182a467 (6.6) made it one bit of these. */
struct inet_sock___since_6_6 {
	unsigned long inet_flags;
};
#define INET_FLAGS_HDRINCL 12

/* Kernels without MPTCP lack the field. */
struct tcp_sock {
	__u8 is_mptcp : 1;
};

struct iovec {
	void *iov_base;
	unsigned long iov_len;
};

/* ITER_UBUF came with fcb14cb1bdac (6.0). */
enum iter_type { ITER_IOVEC, ITER_UBUF };

struct iov_iter {
	__u8 iter_type;
	unsigned long count;
	const struct iovec *iov;
	void *ubuf;
};

/* 8cd54c1c8480 (5.14) renamed it; bit 0 is the direction. */
struct iov_iter___before_5_14 {
	unsigned int type;
};

/* de4f5fed3f23 (6.4) renamed it. */
struct iov_iter___since_6_4 {
	const struct iovec *__iov;
};

struct msghdr {
	void *msg_name;
	int msg_namelen;
	struct iov_iter msg_iter;
};

struct net_device {
	int ifindex;
};

struct sk_buff {
	struct net_device *dev;
	unsigned int len, data_len;
	__u16 protocol; /* network byte order */
	__u16 network_header;
	unsigned char *head, *data;
};

struct sockaddr {
	unsigned short sa_family;
};

/* A module's: known only where the kernel has BTF of its modules (5.11) and this one is loaded. */
struct sctp_ep_common {
	struct sock *sk;
};

struct sctp_association {
	struct sctp_ep_common base;
	struct {
		struct sockaddr primary_addr;
	} peer;
};

struct timespec64 {
	long long tv_sec;
};

struct sockaddr_in6 {
	__u16 sin6_family;
	__u16 sin6_port;
	struct in6_addr sin6_addr;
	__u32 sin6_scope_id;
};

struct nsproxy {
	struct net *net_ns;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct hlist_node {
	struct hlist_node *next, **pprev;
};

struct hlist_head {
	struct hlist_node *first;
};

enum pid_type { PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_MAX };

struct pid {
	unsigned int level;
	struct hlist_head tasks[PIDTYPE_MAX];
	struct upid numbers[1];
};

struct signal_struct {
	struct pid *pids[PIDTYPE_MAX];
};

struct kernel_id {
	__u32 val;
};

struct cred {
	struct kernel_id uid;
	struct kernel_id gid;
	struct kernel_id fsuid;
};

struct qstr {
	__u64 hash_len;
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	const struct cred *f_cred;
};

struct mm_struct {
	unsigned long arg_start, arg_end;
	struct file *exe_file;
};

struct kernfs_node {
	struct kernfs_node *parent;
	const char *name;
	__u64 id;
};

/* 633488947ef6 (6.15) renamed it. */
struct kernfs_node___since_6_15 {
	struct kernfs_node *__parent;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

enum cgroup_subsys_id { pids_cgrp_id, memory_cgrp_id };

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct mm_struct *mm;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct hlist_node pid_links[PIDTYPE_MAX];
	__u64 start_boottime;
	const struct cred *real_cred;
	const struct cred *cred;
	char comm[16];
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct kernel_id loginuid; /* only with CONFIG_AUDITSYSCALL */
	__u64 self_exec_id;
	struct css_set *cgroups;
};

#pragma clang attribute pop

/* self_exec_id was 32 bits wide before d1e7fd6462ca (5.7); 5.8 is our oldest kernel, so 64 bits it is. */

/* What user space hands in; its layout is ABI, so no relocation. */
struct any_sockaddr {
	__u16 family;
	__u16 port_be;
	union {
		__u8 v4[4];
		struct {
			__u32 flowinfo;
			__u8 addr[16];
			__u32 scope_id;
		} v6;
	};
};

#endif
