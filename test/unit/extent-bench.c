// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the extent table costs. Run by ./bench.
 *
 *   extent-bench lookup N COUNT    COUNT lookups of random sectors, N extents
 *   extent-bench promote N COUNT   fill COUNT random 4 KiB blocks, N extents
 */
#include <time.h>

#include "rnd.h"
#include "table.h"

#define BLOCK 8		/* sectors in 4 KiB */

static u64 rng = 88172645463325252ULL;

static u64 rnd(u64 below)
{
	return rnd_next(&rng, below);
}

static u64 now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* @n extents that do not merge, @len sectors each; odd ones are @odd. */
static void make(struct dm_loop_extents *t, u64 n, u64 len,
		 enum dm_loop_state odd)
{
	struct dm_loop_builder b;
	u64 i;

	dm_loop_builder_init(&b, n * len, GFP_KERNEL);
	for (i = 0; i < n; i++)
		if (dm_loop_builder_append(&b, i * len, len,
					   i & 1 ? odd : DM_LOOP_MAPPED,
					   i * len * 2))
			abort();
	if (dm_loop_builder_finish(&b, t))
		abort();
}

static void bench_lookup(u64 n, u64 count)
{
	struct dm_loop_extents t = {};
	struct dm_loop_range r;
	u64 *sector = malloc(count * sizeof(*sector));
	u64 i, sum = 0, ns;

	make(&t, n, BLOCK, DM_LOOP_MAPPED);
	for (i = 0; i < count; i++)
		sector[i] = rnd(n * BLOCK);
	ns = now_ns(CLOCK_MONOTONIC);
	for (i = 0; i < count; i++) {
		dm_loop_extents_lookup(&t, sector[i], &r);
		sum += r.phys;
	}
	ns = now_ns(CLOCK_MONOTONIC) - ns;
	printf("extents=%llu bytes=%ld ns_per_lookup=%.1f # %llx\n",
	       (unsigned long long)n, shim_live_bytes(), (double)ns / count,
	       (unsigned long long)sum);
	dm_loop_extents_destroy(&t);
	rcu_barrier();
	free(sector);
}

static int compare(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* Every other extent is a hole of 64 KiB, filled a block at a time. */
static void bench_promote(u64 n, u64 count)
{
	struct dm_loop_extents t = {};
	u64 *took = malloc(count * sizeof(*took));
	u64 i, at, start, cpu, sum = 0, max_cpu = 0, after, splits = 0;
	const struct dm_loop_root *root;
	long bytes;

	make(&t, n, 16 * BLOCK, DM_LOOP_HOLE);
	bytes = shim_live_bytes();
	shim_rcu_batch(-1);
	for (i = 0; i < count; i++) {
		at = (rnd(n / 2) * 2 + 1) * 16 + rnd(16);
		root = root_of(&t);
		cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
		start = now_ns(CLOCK_MONOTONIC);
		if (dm_loop_extents_set(&t, at * BLOCK, BLOCK, DM_LOOP_MAPPED,
					1000000000 + rnd(1ULL << 40),
					GFP_KERNEL))
			abort();
		took[i] = now_ns(CLOCK_MONOTONIC) - start;
		cpu = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
		/* where the machine is busy this one says what it is */
		max_cpu = max(max_cpu, cpu);
		sum += took[i];
		if (i % 500 == 0)
			rcu_barrier();	/* the kernel frees elsewhere, too */
		splits += root != root_of(&t);
	}
	rcu_barrier();
	after = table_extents(&t);
	qsort(took, count, sizeof(*took), compare);
	printf("extents=%llu..%llu bytes=%ld..%ld bytes_per_extent=%.1f ",
	       (unsigned long long)n, (unsigned long long)after, bytes,
	       shim_live_bytes(), (double)shim_live_bytes() / after);
	printf("promotions=%llu roots=%llu ",
	       (unsigned long long)count, (unsigned long long)splits);
	printf("ns_mean=%llu ns_median=%llu ns_p99=%llu ns_p99.9=%llu ns_max=%llu ns_cpu_max=%llu\n",
	       (unsigned long long)(sum / count),
	       (unsigned long long)took[count / 2],
	       (unsigned long long)took[count - count / 100 - 1],
	       (unsigned long long)took[count - count / 1000 - 1],
	       (unsigned long long)took[count - 1],
	       (unsigned long long)max_cpu);
	dm_loop_extents_destroy(&t);
	rcu_barrier();
	free(took);
}

int main(int argc, char **argv)
{
	u64 n, count;

	if (argc != 4) {
		fprintf(stderr, "usage: extent-bench lookup|promote N COUNT\n");
		return 2;
	}
	n = strtoull(argv[2], NULL, 0);
	count = strtoull(argv[3], NULL, 0);
	if (!strcmp(argv[1], "lookup"))
		bench_lookup(n, count);
	else
		bench_promote(n, count);
	return 0;
}
