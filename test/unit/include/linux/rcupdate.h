/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHIM_LINUX_RCUPDATE_H
#define SHIM_LINUX_RCUPDATE_H

#include <linux/types.h>

/*
 * RCU in user space, see shim.c. The loads and stores are sequentially
 * consistent, stronger than the kernel's, because the grace period relies on
 * nothing else, and because the thread sanitizer understands them.
 */
void rcu_read_lock(void);
void rcu_read_unlock(void);
void rcu_barrier(void);
void shim_kvfree_rcu(struct rcu_head *head, void *obj);
void shim_might_sleep(void);

#ifdef SHIM_FAST
/* For counting instructions: what the kernel's cost without CONFIG_PREEMPT. */
#define rcu_dereference(p) (*(volatile __typeof__(p) *)&(p))
#else
void shim_must_be_reader(void);

#define rcu_dereference(p) ({				\
	shim_must_be_reader();				\
	__atomic_load_n(&(p), __ATOMIC_SEQ_CST); })
#endif

#define rcu_dereference_protected(p, cond) __atomic_load_n(&(p), __ATOMIC_RELAXED)

/* For a test that looks at what readers see from that moment on. */
extern void (*shim_published)(void);

#define rcu_assign_pointer(p, v) do {			\
	__atomic_store_n(&(p), v, __ATOMIC_SEQ_CST);	\
	if (shim_published)				\
		shim_published();			\
} while (0)

#define RCU_INIT_POINTER(p, v) __atomic_store_n(&(p), v, __ATOMIC_RELAXED)

#define kvfree_rcu(p, member) do {			\
	__typeof__(p) _p = (p);				\
							\
	if (_p)						\
		shim_kvfree_rcu(&_p->member, _p);	\
} while (0)

#endif /* SHIM_LINUX_RCUPDATE_H */
