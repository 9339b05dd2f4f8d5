// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stand-ins for the kernel: memory that can run out, and RCU.
 *
 * A reader notes the number of the grace period in which its section began. To
 * wait for a grace period is to raise the number and wait until every reader is
 * outside or has noted at least the new one. What kvfree_rcu() got is freed then
 * and not later, so that the address sanitizer sees a reader that has kept a
 * pointer for too long.
 */
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "shim.h"

#define die(msg) do { fprintf(stderr, "shim: %s\n", msg); abort(); } while (0)

struct reader {
	struct reader *next;
	unsigned long since;	/* 0: outside */
	unsigned int depth;
};

static pthread_mutex_t readers_lock = PTHREAD_MUTEX_INITIALIZER;
static struct reader *readers;
static __thread struct reader *self;
static unsigned long grace_period = 1;

static pthread_mutex_t garbage_lock = PTHREAD_MUTEX_INITIALIZER;
static struct rcu_head *garbage;
static unsigned int nr_garbage, batch = 16;

static long live, live_bytes, fail_at;

void (*shim_published)(void);

static void register_reader(void)
{
	self = calloc(1, sizeof(*self));
	if (!self)
		die("out of memory");
	pthread_mutex_lock(&readers_lock);
	self->next = readers;
	readers = self;
	pthread_mutex_unlock(&readers_lock);
}

void rcu_read_lock(void)
{
	if (!self)
		register_reader();
	if (self->depth++)
		return;
	__atomic_store_n(&self->since,
			 __atomic_load_n(&grace_period, __ATOMIC_SEQ_CST),
			 __ATOMIC_SEQ_CST);
}

void rcu_read_unlock(void)
{
	if (!self || !self->depth)
		die("end of a read section that has not begun");
	if (!--self->depth)
		__atomic_store_n(&self->since, 0, __ATOMIC_SEQ_CST);
}

void shim_must_be_reader(void)
{
	if (!self || !self->depth)
		die("rcu_dereference() outside a read section");
}

void shim_might_sleep(void)
{
	if (self && self->depth)
		die("sleeping function called in a read section");
}

static void wait_grace_period(void)
{
	struct reader *r;
	unsigned long now, since;

	pthread_mutex_lock(&readers_lock);
	now = __atomic_add_fetch(&grace_period, 1, __ATOMIC_SEQ_CST);
	for (r = readers; r; r = r->next) {
		for (;;) {
			since = __atomic_load_n(&r->since, __ATOMIC_SEQ_CST);
			if (!since || since >= now)
				break;
			sched_yield();
		}
	}
	pthread_mutex_unlock(&readers_lock);
}

void rcu_barrier(void)
{
	struct rcu_head *list, *next;

	shim_might_sleep();
	pthread_mutex_lock(&garbage_lock);
	list = garbage;
	garbage = NULL;
	nr_garbage = 0;
	pthread_mutex_unlock(&garbage_lock);
	if (list)
		wait_grace_period();
	for (; list; list = next) {
		next = list->next;
		kfree(list->obj);
	}
}

void shim_kvfree_rcu(struct rcu_head *head, void *obj)
{
	bool full;

	head->obj = obj;
	pthread_mutex_lock(&garbage_lock);
	head->next = garbage;
	garbage = head;
	full = ++nr_garbage >= batch;
	pthread_mutex_unlock(&garbage_lock);
	if (full && !(self && self->depth))
		rcu_barrier();
}

void shim_rcu_batch(unsigned int n)
{
	batch = n;
}

/* What the kernel's allocator takes for it: sizes there go by powers of two. */
static size_t bucket(const void *obj)
{
	size_t want = malloc_usable_size((void *)obj), size = 8;

	while (size < want)
		size *= 2;
	return size;
}

static bool must_fail(void)
{
	return __atomic_load_n(&fail_at, __ATOMIC_RELAXED) > 0 &&
	       __atomic_sub_fetch(&fail_at, 1, __ATOMIC_RELAXED) == 0;
}

static void *alloc(size_t size, gfp_t gfp)
{
	void *obj;

	shim_might_sleep();
	if (gfp != GFP_KERNEL)
		die("not allocated with the flags of the caller");
	if (must_fail())
		return NULL;
	obj = malloc(size);
	if (!obj)
		die("out of memory");
#ifndef SHIM_FAST
	memset(obj, 0xa5, size);
#endif
	__atomic_add_fetch(&live, 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&live_bytes, bucket(obj), __ATOMIC_RELAXED);
	return obj;
}

void *kmalloc(size_t size, gfp_t gfp)
{
	if (size > 4096)
		die("more than a page from the slab allocator");
	return alloc(size, gfp);
}

void *kvmalloc(size_t size, gfp_t gfp)
{
	return alloc(size, gfp);
}

void kfree(const void *obj)
{
	if (!obj)
		return;
	__atomic_sub_fetch(&live, 1, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&live_bytes, bucket(obj), __ATOMIC_RELAXED);
	free((void *)obj);
}

void shim_fail_alloc(long n)
{
	fail_at = n;
}

long shim_fail_left(void)
{
	return fail_at;
}

long shim_live(void)
{
	return live;
}

long shim_live_bytes(void)
{
	return live_bytes;
}
