// SPDX-License-Identifier: GPL-2.0-only
/*
 * Readers and a writer at the same time.
 *
 * Each change has a number, which is part of the places it sets, and is logged
 * before it is made. floor[] says for each sector which change of it was
 * complete last. So what a reader finds must come from that change or from a
 * later one that had begun when the reader was done; anything else is a value
 * that was never there, or one seen too late or too early.
 *
 * SEED=n and SECONDS=n change the run.
 */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "rnd.h"
#include "table.h"

#define SIZE		32768	/* sectors */
#define READERS		3
#define MAX_CHANGES	400000
#define CHANGE_SHIFT	24	/* of the number in the place */

struct change {
	u32 start, len;
	enum dm_loop_state state;
	bool comb;		/* one extent for every 8 sectors */
};

static struct dm_loop_extents table;
static struct change changes[MAX_CHANGES];
static u32 floor_of[SIZE];
static u32 issued;
static u32 destroying, destroyed, stop;
static const char *failure;

static u64 lookups, walks, counts;

#define load(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define store(x, v) __atomic_store_n(&(x), v, __ATOMIC_RELEASE)

static void fail(const char *why)
{
	store(failure, why);
	store(stop, 1);
}

static u64 place(u32 nr, u64 sector)
{
	return ((u64)nr << CHANGE_SHIFT) + sector +
	       (changes[nr].comb ? sector / 8 * 8 : 0);
}

static bool covers(u32 nr, u64 sector)
{
	return sector >= changes[nr].start &&
	       sector - changes[nr].start < changes[nr].len;
}

/* Can it be that @sector is in @r, if change @low was complete, @high begun? */
static bool is_possible(const struct dm_loop_range *r, u64 sector, u32 low,
			u32 high)
{
	u32 nr = r->phys >> CHANGE_SHIFT;

	if (sector < r->start || sector - r->start >= r->len)
		return false;
	if (dm_loop_has_place(r->state))
		return nr >= low && nr <= high && covers(nr, sector) &&
		       changes[nr].state == r->state &&
		       r->phys + (sector - r->start) == place(nr, sector);
	for (nr = low; nr <= high; nr++)
		if (covers(nr, sector) && changes[nr].state == r->state)
			return r->phys == 0;
	return false;
}

static void look_once(u64 sector)
{
	u32 low = load(floor_of[sector]), gone = load(destroyed), high;
	struct dm_loop_range r = {};
	bool found = look_up(&table, sector, &r);

	high = load(issued);
	if (!found && !load(destroying))
		fail("a sector was not there");
	if (found && gone)
		fail("a sector was there after destroy");
	if (found && !is_possible(&r, sector, low, high))
		fail("a sector had a value that was never there");
}

static u64 sum_leaf(const struct dm_loop_leaf *leaf)
{
	u64 sum = leaf->nr;
	unsigned int i;

	for (i = 0; i <= leaf->nr; i++)
		sum = sum * 31 + leaf->ext[i].start + leaf->ext[i].where;
	return sum;
}

/* A slow reader: root and leaf stay as they are until it leaves. */
static void read_slowly(u64 sector)
{
	const struct dm_loop_root *root;
	const struct dm_loop_leaf *leaf;
	u64 sum, end;

	rcu_read_lock();
	root = rcu_dereference(table.root);
	if (root) {
		leaf = rcu_dereference(find_slot(root, sector)->leaf);
		end = root->end;
		sum = sum_leaf(leaf);
		sched_yield();
		if (sum != sum_leaf(leaf) || end != root->end)
			fail("a leaf changed under its reader");
	}
	rcu_read_unlock();
}

static void *reader(void *arg)
{
	u64 rng = (uintptr_t)arg * 2 + 1, n, slow = 0;

	for (n = 0; !load(stop); n++) {
		look_once(rnd_next(&rng, SIZE));
		if (n % 64 == 0) {
			read_slowly(rnd_next(&rng, SIZE));
			slow++;
		}
	}
	__atomic_add_fetch(&lookups, n, __ATOMIC_RELAXED);
	__atomic_add_fetch(&walks, slow, __ATOMIC_RELAXED);
	return NULL;
}

/* Whatever changes: each sector is counted once, since there is never a gap. */
static void *counter(void *arg)
{
	struct dm_loop_counts c;
	u64 sum;
	int i;

	while (!load(stop)) {
		dm_loop_extents_count(&table, 0, SIZE, &c);
		for (i = 0, sum = 0; i < DM_LOOP_NR_STATES; i++)
			sum += c.sectors[i];
		if (sum != SIZE && !load(destroying))
			fail("a count that missed sectors");
		counts++;
	}
	return NULL;
}

static int load_comb(u32 nr)
{
	struct dm_loop_builder b;
	u64 at;

	dm_loop_builder_init(&b, SIZE, GFP_KERNEL);
	for (at = 0; at < SIZE; at += 8)
		if (dm_loop_builder_append(&b, at, 8, changes[nr].state,
					   place(nr, at)))
			abort();
	return dm_loop_builder_finish(&b, &table);
}

static void choose(struct change *c, u64 *rng)
{
	static const u32 max_len[] = { 1, 8, 8, 8, 64, 500 };
	u64 dice = rnd_next(rng, 1000);

	c->comb = dice < 3;
	c->state = c->comb ? DM_LOOP_MAPPED : rnd_next(rng, DM_LOOP_NR_STATES);
	c->len = c->comb ? SIZE : dice < 6 ? 1 + rnd_next(rng, SIZE) :
		 1 + rnd_next(rng, max_len[dice % 6]);
	c->start = rnd_next(rng, SIZE - c->len + 1);
}

static void change_once(u32 nr, u64 *rng)
{
	struct change *c = &changes[nr];
	u32 i;
	int err;

	choose(c, rng);
	if (nr == 1)
		*c = (struct change) { 0, SIZE, DM_LOOP_MAPPED, true };
	store(issued, nr);
	if (c->comb)
		err = load_comb(nr);
	else
		err = dm_loop_extents_set(&table, c->start, c->len, c->state,
					  place(nr, c->start), GFP_KERNEL);
	if (err)
		fail("a change failed");
	for (i = 0; i < c->len; i++)
		store(floor_of[c->start + i], nr);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static const char *write_for(double seconds, u64 *rng, u32 *nr)
{
	double end = now() + seconds;

	while (now() < end && *nr + 1 < MAX_CHANGES && !load(stop))
		change_once(++*nr, rng);
	return load(failure) ?: check_root(root_of(&table));
}

int main(void)
{
	u64 seed = tap_env("SEED", (u64)time(NULL)), rng = seed * 2 + 1;
	pthread_t threads[READERS + 1];
	const char *bad;
	uintptr_t i;
	u32 nr = 0;

	tap_diag("SEED=%llu", (unsigned long long)seed);
	shim_rcu_batch(8);
	change_once(++nr, &rng);
	for (i = 0; i < READERS; i++)
		pthread_create(&threads[i], NULL, reader, (void *)(seed + i));
	pthread_create(&threads[READERS], NULL, counter, NULL);
	bad = write_for(tap_env("SECONDS", 4), &rng, &nr);
	tap_ok(!bad && nr > 100, "%u changes%s%s", nr, bad ? ": " : "",
	       bad ?: "");

	store(destroying, 1);
	dm_loop_extents_destroy(&table);
	store(destroyed, 1);
	rcu_barrier();
	usleep(20000);
	store(stop, 1);
	for (i = 0; i < READERS + 1; i++)
		pthread_join(threads[i], NULL);
	tap_ok(!load(failure) && lookups > 1000 && walks && counts,
	       "%llu lookups, %llu slow readers, %llu counts%s%s",
	       (unsigned long long)lookups, (unsigned long long)walks,
	       (unsigned long long)counts, failure ? ": " : "", failure ?: "");
	tap_ok(!check_table(&table), "nothing left after destroy");
	return tap_done();
}
