// SPDX-License-Identifier: GPL-2.0-only
/*
 * The extent table at its edges, one case after the other.
 */
#include "table.h"

#define H DM_LOOP_HOLE
#define F DM_LOOP_FILLED
#define U DM_LOOP_UNWRITTEN
#define M DM_LOOP_MAPPED
#define S DM_LOOP_SHARED

/* Does the table consist of exactly these extents, and nothing but them? */
static bool is_table(const struct dm_loop_extents *t,
		     const struct dm_loop_range *want, unsigned int nr)
{
	const char *bad = check_table(t);
	struct dm_loop_range r;
	unsigned int i;
	u64 at = 0;

	if (bad) {
		tap_diag("%s", bad);
		return false;
	}
	for (i = 0; look_up(t, at, &r); i++, at = r.start + r.len) {
		if (i < nr && same_range(&r, &want[i]))
			continue;
		tap_diag("extent %u: %llu + %llu at %llu, state %d", i,
			 (unsigned long long)r.start, (unsigned long long)r.len,
			 (unsigned long long)r.phys, r.state);
		return false;
	}
	return i == nr;
}

/* is_table(t, {start, len, phys, state}, ...) */
#define IS_TABLE(t, ...) ({						\
	const struct dm_loop_range _want[] = { __VA_ARGS__ };		\
	is_table(t, _want, ARRAY_SIZE(_want)); })

static int set(struct dm_loop_extents *t, u64 start, u64 len,
	       enum dm_loop_state state, u64 phys)
{
	return dm_loop_extents_set(t, start, len, state, phys, GFP_KERNEL);
}

/* A table of @size sectors with the ranges given. */
static void make_table(struct dm_loop_extents *t, u64 size,
		       const struct dm_loop_range *r, unsigned int nr)
{
	struct dm_loop_builder b;
	unsigned int i;

	dm_loop_builder_init(&b, size, GFP_KERNEL);
	for (i = 0; i < nr; i++)
		if (dm_loop_builder_append(&b, r[i].start, r[i].len,
					   r[i].state, r[i].phys))
			abort();
	if (dm_loop_builder_finish(&b, t))
		abort();
}

#define TABLE(t, size, ...) do {					\
	const struct dm_loop_range _r[] = { __VA_ARGS__ };		\
	make_table(t, size, _r, ARRAY_SIZE(_r));			\
} while (0)

/*
 * A table of @nr extents of @len sectors, none of which can merge: every one
 * mapped, an odd one at twice the distance. In leaves as full as they get.
 */
static void make_comb(struct dm_loop_extents *t, unsigned int nr, u64 len)
{
	struct dm_loop_builder b;
	unsigned int i;

	dm_loop_builder_init(&b, nr * len, GFP_KERNEL);
	for (i = 0; i < nr; i++)
		if (dm_loop_builder_append(&b, i * len, len, M,
					   1000000 + 2 * i * len))
			abort();
	if (dm_loop_builder_finish(&b, t))
		abort();
}

static bool is_comb_extent(const struct dm_loop_extents *t, u64 i, u64 len)
{
	struct dm_loop_range r;

	return look_up(t, i * len, &r) && r.start == i * len && r.len == len &&
	       r.phys == 1000000 + 2 * i * len && r.state == M;
}

static bool is_comb(const struct dm_loop_extents *t, u64 first, u64 last,
		    u64 len)
{
	u64 i;

	for (i = first; i <= last; i++)
		if (!is_comb_extent(t, i, len))
			return false;
	return true;
}

static void test_empty(void)
{
	struct dm_loop_extents t = {};
	struct dm_loop_range r = { 1, 2, 3, S }, same = r;
	struct dm_loop_counts c, zero = {};
	struct dm_loop_builder b;

	tap_ok(!look_up(&t, 0, &r) && !look_up(&t, U64_MAX, &r) &&
	       same_range(&r, &same),
	       "empty: a lookup finds nothing and leaves the result alone");
	memset(&c, 0xff, sizeof(c));
	dm_loop_extents_count(&t, 0, U64_MAX, &c);
	tap_ok(!memcmp(&c, &zero, sizeof(c)), "empty: all counts are 0");
	tap_ok(set(&t, 0, 1, M, 0) == -EINVAL, "empty: nothing can be set");
	dm_loop_extents_destroy(&t);
	tap_ok(!check_table(&t), "empty: destroy is no harm");
	dm_loop_builder_init(&b, 0, GFP_KERNEL);
	tap_ok(!dm_loop_builder_finish(&b, &t) && !root_of(&t),
	       "empty: what a size of 0 makes");
}

static void test_builder_gaps(void)
{
	struct dm_loop_extents t = {};
	struct dm_loop_builder b;

	dm_loop_builder_init(&b, 100, GFP_KERNEL);
	tap_ok(!dm_loop_builder_finish(&b, &t) &&
	       IS_TABLE(&t, { 0, 100, 0, H }),
	       "build: nothing appended is one hole");
	TABLE(&t, 100, { 10, 10, 500, M }, { 40, 20, 700, U });
	tap_ok(IS_TABLE(&t, { 0, 10, 0, H }, { 10, 10, 500, M },
			{ 20, 20, 0, H }, { 40, 20, 700, U },
			{ 60, 40, 0, H }),
	       "build: gaps are holes, also before and after all");
	TABLE(&t, 100, { 0, 10, 77, H }, { 20, 10, 0, H }, { 50, 50, 5, S });
	tap_ok(IS_TABLE(&t, { 0, 50, 0, H }, { 50, 50, 5, S }),
	       "build: holes and gaps are one hole, without a place");
	dm_loop_extents_destroy(&t);
	tap_ok(!check_table(&t), "build: old tables are freed");
}

static void test_builder_merge(void)
{
	struct dm_loop_extents t = {};

	TABLE(&t, 40, { 0, 10, 100, M }, { 10, 10, 110, M },
	      { 20, 10, 120, U }, { 30, 10, 130, U });
	tap_ok(IS_TABLE(&t, { 0, 20, 100, M }, { 20, 20, 120, U }),
	       "build: what continues in place and state merges");
	TABLE(&t, 40, { 0, 10, 100, M }, { 10, 10, 111, M },
	      { 20, 10, 121, S }, { 30, 10, 120, S });
	tap_ok(IS_TABLE(&t, { 0, 10, 100, M }, { 10, 10, 111, M },
			{ 20, 10, 121, S }, { 30, 10, 120, S }),
	       "build: one sector off does not");
	TABLE(&t, 30, { 0, 10, 100, M }, { 20, 10, 110, M });
	tap_ok(IS_TABLE(&t, { 0, 10, 100, M }, { 10, 10, 0, H },
			{ 20, 10, 110, M }),
	       "build: nor does what continues behind a gap");
	dm_loop_extents_destroy(&t);
}

static void test_builder_clip(void)
{
	struct dm_loop_extents t = {};

	TABLE(&t, 13, { 0, 8, 100, M }, { 8, 8, 300, M }, { 16, 8, 900, M });
	tap_ok(IS_TABLE(&t, { 0, 8, 100, M }, { 8, 5, 300, M }),
	       "build: what lies beyond the size is left out");
	TABLE(&t, 13, { 0, 8, 100, M }, { 8, 100, 108, M });
	tap_ok(IS_TABLE(&t, { 0, 13, 100, M }), "build: also when it merges");
	TABLE(&t, 13, { 0, 8, 100, M }, { 20, 8, 120, M }, { 28, 8, 0, U });
	tap_ok(IS_TABLE(&t, { 0, 8, 100, M }, { 8, 5, 0, H }),
	       "build: also when a gap reaches beyond");
	TABLE(&t, 1, { 5, 8, 100, M });
	tap_ok(IS_TABLE(&t, { 0, 1, 0, H }), "build: a file of one sector");
	dm_loop_extents_destroy(&t);
}

static int append(struct dm_loop_builder *b, u64 start, u64 len,
		  unsigned int state, u64 phys)
{
	return dm_loop_builder_append(b, start, len, state, phys);
}

static void test_builder_refuses(void)
{
	const u64 end = DM_LOOP_SECTOR_END;
	struct dm_loop_extents t = {};
	struct dm_loop_builder b;

	dm_loop_builder_init(&b, 100, GFP_KERNEL);
	append(&b, 10, 10, M, 500);
	tap_ok(append(&b, 30, 0, M, 0) == -EINVAL, "build: refuses length 0");
	tap_ok(append(&b, 19, 5, M, 0) == -EINVAL, "build: refuses overlap");
	tap_ok(append(&b, 0, 5, M, 0) == -EINVAL, "build: refuses disorder");
	tap_ok(append(&b, 30, 5, DM_LOOP_NR_STATES, 0) == -EINVAL,
	       "build: refuses an unknown state");
	tap_ok(append(&b, 30, 5, M, end - 4) == -EINVAL &&
	       append(&b, 30, 5, M, U64_MAX) == -EINVAL,
	       "build: refuses a place of more than 61 bits");
	tap_ok(append(&b, 30, end, M, 0) == -EINVAL &&
	       append(&b, 30, U64_MAX, M, 0) == -EINVAL &&
	       append(&b, end - 1, 2, M, 0) == -EINVAL &&
	       append(&b, U64_MAX - 1, 2, M, 0) == -EINVAL,
	       "build: refuses a sector of more than 61 bits");
	tap_ok(!append(&b, 20, 5, M, 510) && !dm_loop_builder_finish(&b, &t) &&
	       IS_TABLE(&t, { 0, 10, 0, H }, { 10, 15, 500, M },
			{ 25, 75, 0, H }),
	       "build: goes on after it has refused");
	dm_loop_builder_init(&b, end + 1, GFP_KERNEL);
	append(&b, 0, 1, M, 0);
	tap_ok(dm_loop_builder_finish(&b, &t) == -EINVAL &&
	       IS_TABLE(&t, { 0, 10, 0, H }, { 10, 15, 500, M },
			{ 25, 75, 0, H }),
	       "build: refuses a size of more than 61 bits, keeps the old");
	dm_loop_extents_destroy(&t);
	tap_ok(!check_table(&t), "build: nothing left of the refused");
}

static void test_builder_leaves(void)
{
	struct dm_loop_extents t = {};
	unsigned int n;
	bool ok = true;

	for (n = LEAF_MAX - 1; n <= 2 * LEAF_MAX + 1; n++) {
		make_comb(&t, n, 8);
		ok = ok && !check_table(&t) && is_comb(&t, 0, n - 1, 8) &&
		     table_leaves(&t) == DIV_ROUND_UP(n, LEAF_MAX);
	}
	tap_ok(ok, "build: leaves that are just full and not yet");
	dm_loop_extents_destroy(&t);
}

static void test_builder_abort(void)
{
	struct dm_loop_extents t = {};
	struct dm_loop_builder b;
	u64 i;

	dm_loop_builder_init(&b, 10000, GFP_KERNEL);
	for (i = 0; i < 600; i++)
		append(&b, i * 8, 8, M, i * 16);
	dm_loop_builder_abort(&b);
	tap_ok(!check_table(&t), "build: abort frees what was appended");
	dm_loop_builder_abort(&b);
	dm_loop_builder_init(&b, 100, GFP_KERNEL);
	dm_loop_builder_abort(&b);
	tap_ok(!check_table(&t), "build: abort of an empty builder");
	dm_loop_builder_init(&b, 100, GFP_KERNEL);
	append(&b, 0, 8, M, 0);
	tap_ok(!dm_loop_builder_finish(&b, &t) &&
	       (dm_loop_builder_abort(&b), true) &&
	       IS_TABLE(&t, { 0, 8, 0, M }, { 8, 92, 0, H }),
	       "build: abort after finish is no harm");
	dm_loop_extents_destroy(&t);
	tap_ok(!check_table(&t), "build: nothing left");
}

static void test_lookup(void)
{
	struct dm_loop_extents t = {};
	struct dm_loop_range r;

	TABLE(&t, 1, { 0, 1, 9, S });
	tap_ok(look_up(&t, 0, &r) && r.len == 1 && r.phys == 9 && r.state == S,
	       "lookup: one sector");
	tap_ok(!look_up(&t, 1, &r) && !look_up(&t, U64_MAX, &r),
	       "lookup: nothing at the end or beyond");
	TABLE(&t, 30, { 0, 10, 100, M }, { 10, 10, 300, U }, { 20, 10, 50, S });
	tap_ok(look_up(&t, 9, &r) && r.start == 0 && r.phys == 100 &&
	       look_up(&t, 10, &r) && r.start == 10 && r.phys == 300 &&
	       look_up(&t, 19, &r) && r.start == 10 && r.phys == 300 &&
	       look_up(&t, 20, &r) && r.start == 20 && r.phys == 50 &&
	       look_up(&t, 29, &r) && r.start == 20 && r.len == 10,
	       "lookup: first and last sector of each extent");
	dm_loop_extents_destroy(&t);
}

static void test_limits(void)
{
	const u64 end = DM_LOOP_SECTOR_END;
	struct dm_loop_extents t = {};

	TABLE(&t, end, { end - 8, 8, end - 8, M });
	tap_ok(IS_TABLE(&t, { 0, end - 8, 0, H }, { end - 8, 8, end - 8, M }),
	       "limits: the last sector there can be");
	tap_ok(!set(&t, 0, end, S, 0) && IS_TABLE(&t, { 0, end, 0, S }),
	       "limits: all sectors there can be");
	tap_ok(!set(&t, end - 1, 1, M, end - 1) &&
	       IS_TABLE(&t, { 0, end - 1, 0, S }, { end - 1, 1, end - 1, M }),
	       "limits: set the last sector, at the last place");
	tap_ok(set(&t, end - 1, 2, M, 0) == -EINVAL &&
	       set(&t, end, 1, M, 0) == -EINVAL &&
	       set(&t, 5, U64_MAX - 4, M, 0) == -EINVAL &&
	       set(&t, U64_MAX, 1, M, 0) == -EINVAL &&
	       set(&t, U64_MAX, U64_MAX, M, 0) == -EINVAL &&
	       set(&t, 0, 2, M, end - 1) == -EINVAL &&
	       set(&t, 0, 2, M, U64_MAX - 1) == -EINVAL &&
	       set(&t, 0, 0, M, 0) == -EINVAL &&
	       set(&t, 0, 1, DM_LOOP_NR_STATES, 0) == -EINVAL &&
	       set(&t, 0, 1, -1, 0) == -EINVAL,
	       "limits: set refuses what is out of bounds");
	tap_ok(!set(&t, 0, 2, H, U64_MAX) &&
	       IS_TABLE(&t, { 0, 2, 0, H }, { 2, end - 3, 2, S },
			{ end - 1, 1, end - 1, M }),
	       "limits: the place of a hole is ignored");
	TABLE(&t, 100, { 0, 100, 0, M });
	tap_ok(set(&t, 100, 1, M, 0) == -EINVAL &&
	       set(&t, 99, 2, M, 0) == -EINVAL && !set(&t, 99, 1, U, 0) &&
	       IS_TABLE(&t, { 0, 99, 0, M }, { 99, 1, 0, U }),
	       "limits: set refuses what is beyond the table");
	dm_loop_extents_destroy(&t);
}

/* Blocks whose place nobody has asked for join, wherever they are. */
static void test_filled(void)
{
	struct dm_loop_extents t = {};

	TABLE(&t, 100, { 0, 100, 0, H });
	tap_ok(!set(&t, 10, 10, F, 77) && !set(&t, 20, 10, F, 5) &&
	       IS_TABLE(&t, { 0, 10, 0, H }, { 10, 20, 0, F },
			{ 30, 70, 0, H }),
	       "filled: neighbours join, and have no place");
	tap_ok(!set(&t, 15, 5, M, 500) &&
	       IS_TABLE(&t, { 0, 10, 0, H }, { 10, 5, 0, F },
			{ 15, 5, 500, M }, { 20, 10, 0, F }, { 30, 70, 0, H }),
	       "filled: found out in the middle");
	tap_ok(!set(&t, 10, 5, M, 495) && !set(&t, 20, 10, M, 505) &&
	       IS_TABLE(&t, { 0, 10, 0, H }, { 10, 20, 495, M },
			{ 30, 70, 0, H }),
	       "filled: found out, in one piece");
	dm_loop_extents_destroy(&t);
}

static void test_split(void)
{
	struct dm_loop_extents t = {};

	TABLE(&t, 101, { 0, 101, 1000, M });
	set(&t, 0, 10, H, 0);
	tap_ok(IS_TABLE(&t, { 0, 10, 0, H }, { 10, 91, 1010, M }),
	       "split: left");
	set(&t, 90, 11, U, 5);
	tap_ok(IS_TABLE(&t, { 0, 10, 0, H }, { 10, 80, 1010, M },
			{ 90, 11, 5, U }), "split: right");
	set(&t, 50, 1, S, 7);
	tap_ok(IS_TABLE(&t, { 0, 10, 0, H }, { 10, 40, 1010, M },
			{ 50, 1, 7, S }, { 51, 39, 1051, M },
			{ 90, 11, 5, U }), "split: in the middle");
	set(&t, 5, 10, M, 1);
	tap_ok(IS_TABLE(&t, { 0, 5, 0, H }, { 5, 10, 1, M },
			{ 15, 35, 1015, M }, { 50, 1, 7, S },
			{ 51, 39, 1051, M }, { 90, 11, 5, U }),
	       "split: over a border");
	set(&t, 1, 99, S, 1);
	tap_ok(IS_TABLE(&t, { 0, 1, 0, H }, { 1, 99, 1, S },
			{ 100, 1, 15, U }), "split: all but the ends");
	set(&t, 0, 101, U, 0);
	tap_ok(IS_TABLE(&t, { 0, 101, 0, U }), "split: over all");
	dm_loop_extents_destroy(&t);
}

static void test_merge(void)
{
	struct dm_loop_extents t = {};

	TABLE(&t, 30, { 0, 10, 100, M }, { 20, 10, 120, M });
	set(&t, 10, 10, M, 110);
	tap_ok(IS_TABLE(&t, { 0, 30, 100, M }), "merge: on both sides");
	set(&t, 10, 10, H, 0);
	tap_ok(IS_TABLE(&t, { 0, 10, 100, M }, { 10, 10, 0, H },
			{ 20, 10, 120, M }), "merge: a hole is no neighbour");
	set(&t, 10, 4, M, 110);
	tap_ok(IS_TABLE(&t, { 0, 14, 100, M }, { 14, 6, 0, H },
			{ 20, 10, 120, M }), "merge: on the left");
	set(&t, 16, 4, M, 116);
	tap_ok(IS_TABLE(&t, { 0, 14, 100, M }, { 14, 2, 0, H },
			{ 16, 14, 116, M }), "merge: on the right");
	set(&t, 12, 6, H, 0);
	tap_ok(IS_TABLE(&t, { 0, 12, 100, M }, { 12, 6, 0, H },
			{ 18, 12, 118, M }), "merge: a hole that grows");
	set(&t, 0, 12, H, 0);
	tap_ok(IS_TABLE(&t, { 0, 18, 0, H }, { 18, 12, 118, M }),
	       "merge: holes");
	set(&t, 5, 5, H, 0);
	tap_ok(IS_TABLE(&t, { 0, 18, 0, H }, { 18, 12, 118, M }),
	       "merge: with what it was");
	dm_loop_extents_destroy(&t);
}

static void test_merge_cut(void)
{
	struct dm_loop_extents t = {};

	TABLE(&t, 30, { 0, 30, 100, M });
	set(&t, 10, 10, M, 110);
	tap_ok(IS_TABLE(&t, { 0, 30, 100, M }),
	       "merge: a part set to what it is");
	set(&t, 10, 10, M, 111);
	tap_ok(IS_TABLE(&t, { 0, 10, 100, M }, { 10, 10, 111, M },
			{ 20, 10, 120, M }), "merge: not if moved by one");
	set(&t, 9, 11, M, 109);
	tap_ok(IS_TABLE(&t, { 0, 30, 100, M }),
	       "merge: with what is left of two it cuts");
	set(&t, 0, 15, U, 100);
	set(&t, 10, 5, M, 110);
	tap_ok(IS_TABLE(&t, { 0, 10, 100, U }, { 10, 20, 110, M }),
	       "merge: an unwritten extent written from its end");
	set(&t, 0, 1, M, 100);
	set(&t, 1, 9, M, 101);
	tap_ok(IS_TABLE(&t, { 0, 30, 100, M }), "merge: and from its start");
	dm_loop_extents_destroy(&t);
}

/* A change that is none must not cost a copy. */
static void test_same(void)
{
	struct dm_loop_extents t = {};
	const struct dm_loop_leaf *leaf;

	TABLE(&t, 30, { 0, 20, 100, M });
	leaf = leaf_of(root_of(&t), 0);
	tap_ok(!set(&t, 0, 20, M, 100) && !set(&t, 7, 3, M, 107) &&
	       !set(&t, 20, 10, H, 0) && leaf == leaf_of(root_of(&t), 0),
	       "same: no copy for what is set already");
	dm_loop_extents_destroy(&t);
}

static void test_leaf_split(void)
{
	const u64 n = 3 * LEAF_MAX;
	struct dm_loop_extents t = {};
	const struct dm_loop_root *root;
	u64 at = LEAF_MAX + 10;

	make_comb(&t, n, 8);
	set(&t, at * 8 + 2, 3, H, 0);
	tap_ok(!check_table(&t) && table_leaves(&t) == 4 &&
	       table_extents(&t) == n + 2 && is_comb(&t, 0, at - 1, 8) &&
	       is_comb(&t, at + 1, n - 1, 8), "leaves: a full one splits");
	root = root_of(&t);
	set(&t, at * 8 + 5, 1, H, 0);
	tap_ok(root == root_of(&t) && !check_table(&t),
	       "leaves: the root stays if no more than a leaf changes");
	make_comb(&t, n, 8);
	set(&t, 0, 1, H, 0);
	tap_ok(!check_table(&t) && is_comb(&t, 1, n - 1, 8),
	       "leaves: the first sector of all");
	make_comb(&t, n, 8);
	set(&t, n * 8 - 1, 1, H, 0);
	tap_ok(!check_table(&t) && is_comb(&t, 0, n - 2, 8),
	       "leaves: the last sector of all");
	dm_loop_extents_destroy(&t);
}

/* At every distance around the border of two leaves, both with room and full. */
static void test_leaf_border(void)
{
	const u64 n = 3 * LEAF_MAX;
	struct dm_loop_extents t = {};
	u64 from, to, border = LEAF_MAX * 8;
	bool ok = true;

	for (from = border - 9; from <= border + 9; from++) {
		for (to = from + 1; to <= border + 10; to++) {
			make_comb(&t, n, 8);
			set(&t, from, to - from, U, 0);
			ok = ok && !check_table(&t) &&
			     is_comb(&t, 0, from / 8 - 1, 8) &&
			     is_comb(&t, DIV_ROUND_UP(to, 8), n - 1, 8);
		}
	}
	tap_ok(ok, "leaves: all ways over a border");
	dm_loop_extents_destroy(&t);
}

static void test_leaf_merge_across(void)
{
	const u64 n = 3 * LEAF_MAX, b = LEAF_MAX * 8;
	struct dm_loop_extents t = {};
	struct dm_loop_range r, next;

	make_comb(&t, n, 8);
	look_up(&t, b - 1, &r);
	set(&t, b, 8, M, r.phys + 8);
	tap_ok(!check_table(&t) && look_up(&t, b, &r) && r.start == b - 8 &&
	       r.len == 16 && table_extents(&t) == n - 1,
	       "leaves: merge with the last extent of the leaf before");
	make_comb(&t, n, 8);
	look_up(&t, b, &r);
	set(&t, b - 8, 8, M, r.phys - 8);
	tap_ok(!check_table(&t) && look_up(&t, b, &r) && r.start == b - 8 &&
	       r.len == 16 && table_extents(&t) == n - 1,
	       "leaves: merge with the first extent of the next leaf");
	make_comb(&t, n, 8);
	set(&t, b - 8, 8, H, 0);
	set(&t, b, 8, H, 0);
	tap_ok(!check_table(&t) && look_up(&t, b, &next) && next.len == 16 &&
	       next.start == b - 8, "leaves: holes merge across");
	dm_loop_extents_destroy(&t);
}

static void test_leaf_many(void)
{
	const u64 n = 5 * LEAF_MAX;
	struct dm_loop_extents t = {};

	make_comb(&t, n, 8);
	set(&t, 100 * 8, (n - 200) * 8, M, 0);
	tap_ok(!check_table(&t) && is_comb(&t, 0, 99, 8) &&
	       is_comb(&t, n - 100, n - 1, 8) && table_extents(&t) == 201,
	       "leaves: over several");
	make_comb(&t, n, 8);
	set(&t, LEAF_MAX * 8, LEAF_MAX * 8, M, 0);
	tap_ok(!check_table(&t) && is_comb(&t, 0, LEAF_MAX - 1, 8) &&
	       is_comb(&t, 2 * LEAF_MAX, n - 1, 8), "leaves: exactly one");
	make_comb(&t, n, 8);
	set(&t, 0, n * 8, H, 0);
	tap_ok(IS_TABLE(&t, { 0, n * 8, 0, H }) && table_leaves(&t) == 1,
	       "leaves: over all");
	make_comb(&t, n, 8);
	set(&t, 4, n * 8 - 8, H, 0);
	tap_ok(IS_TABLE(&t, { 0, 4, 1000000, M }, { 4, n * 8 - 8, 0, H },
			{ n * 8 - 4, 4, 1000000 + 16 * (n - 1) + 4, M }),
	       "leaves: over all but the ends");
	dm_loop_extents_destroy(&t);
}

/* Two full leaves and three new extents do not fit two leaves. */
static void test_leaf_three(void)
{
	const u64 n = 2 * LEAF_MAX, b = LEAF_MAX * 8;
	struct dm_loop_extents t = {};

	make_comb(&t, n, 8);
	set(&t, b - 1, 2, H, 0);
	tap_ok(!check_table(&t) && table_leaves(&t) == 3 &&
	       table_extents(&t) == n + 1 &&
	       is_comb(&t, 0, LEAF_MAX - 2, 8) &&
	       is_comb(&t, LEAF_MAX + 1, n - 1, 8),
	       "leaves: two become three");
	dm_loop_extents_destroy(&t);
}

/* A fragmented file that is filled gives its memory back, in any order. */
static void test_shrink(bool backwards)
{
	const u64 n = 40 * LEAF_MAX;
	struct dm_loop_extents t = {};
	const char *bad = NULL;
	u64 i, at, most = 0, fill;

	make_comb(&t, n, 8);
	for (i = 0; i < n && !bad; i++) {
		at = backwards ? n - 1 - i : i;
		bad = set(&t, at * 8, 8, M, 50 + at * 8) ? "set" :
		      check_table(&t);
		fill = table_extents(&t) * 100 / (table_leaves(&t) * LEAF_MAX);
		if (table_leaves(&t) > 1 && 100 - fill > most)
			most = 100 - fill;
	}
	tap_ok(!bad && IS_TABLE(&t, { 0, n * 8, 50, M }) &&
	       table_leaves(&t) == 1 && shim_live_bytes() < 256,
	       "shrink: filled from the %s, one leaf is left, of %ld bytes",
	       backwards ? "end" : "start", shim_live_bytes());
	tap_ok(most <= 75, "shrink: never more than %llu%% of the room unused",
	       (unsigned long long)most);
	dm_loop_extents_destroy(&t);
}

static void test_join_both(void)
{
	const u64 n = 3 * LEAF_MAX, few = LEAF_MAX / 9, fewer = LEAF_MAX / 24;
	struct dm_loop_extents t = {};
	u64 i;

	make_comb(&t, n, 8);
	/* a few extents are left in the first and in the last leaf */
	set(&t, 0, (LEAF_MAX - few) * 8, H, 0);
	set(&t, (2 * LEAF_MAX + few) * 8, (LEAF_MAX - few) * 8, H, 0);
	tap_ok(table_leaves(&t) == 3, "join: not while they are big enough");
	for (i = LEAF_MAX; i < 2 * LEAF_MAX - fewer; i++)
		set(&t, i * 8, 8, H, 0);
	tap_ok(!check_table(&t) && table_leaves(&t) == 1 &&
	       is_comb(&t, LEAF_MAX - few, LEAF_MAX - 1, 8) &&
	       is_comb(&t, 2 * LEAF_MAX - fewer, 2 * LEAF_MAX + few - 1, 8),
	       "join: with both neighbours");
	dm_loop_extents_destroy(&t);
}

/* Leaves that fill more than half of one stay, else they would soon split. */
static void test_join_not(void)
{
	const u64 n = 2 * LEAF_MAX;
	struct dm_loop_extents t = {};
	const struct dm_loop_root *root;

	make_comb(&t, n, 8);
	set(&t, 8, (LEAF_MAX - LEAF_MIN_PAIR / 2) * 8, H, 0);
	set(&t, (n - LEAF_MIN_PAIR / 2) * 8, LEAF_MIN_PAIR / 2 * 8, H, 0);
	set(&t, (LEAF_MAX + LEAF_MIN_PAIR / 2) * 8, LEAF_MIN_PAIR * 8 - 8, H,
	    0);
	root = root_of(&t);
	set(&t, LEAF_MAX * 8, 8, H, 0);
	set(&t, (LEAF_MAX - 2) * 8, 8, U, 0);
	tap_ok(!check_table(&t) && table_leaves(&t) == 2 && root_of(&t) == root,
	       "join: not what fills more than half a leaf");
	dm_loop_extents_destroy(&t);
}

static bool count_is(const struct dm_loop_extents *t, u64 start, u64 len,
		     enum dm_loop_state state, u64 extents, u64 sectors)
{
	struct dm_loop_counts c;

	dm_loop_extents_count(t, start, len, &c);
	return c.extents[state] == extents && c.sectors[state] == sectors;
}

static void test_count(void)
{
	const u64 n = 3 * LEAF_MAX;
	struct dm_loop_extents t = {};
	struct dm_loop_counts c;

	TABLE(&t, 101, { 10, 10, 500, M }, { 30, 10, 600, U }, { 40, 5, 0, S },
	      { 45, 5, 700, M });
	dm_loop_extents_count(&t, 0, 101, &c);
	tap_ok(c.extents[H] == 3 && c.sectors[H] == 71 && c.extents[M] == 2 &&
	       c.sectors[M] == 15 && c.extents[U] == 1 && c.sectors[U] == 10 &&
	       c.extents[S] == 1 && c.sectors[S] == 5, "count: all");
	tap_ok(count_is(&t, 12, 3, M, 1, 3) && count_is(&t, 19, 27, M, 2, 2) &&
	       count_is(&t, 19, 27, U, 1, 10) && count_is(&t, 20, 10, M, 0, 0),
	       "count: parts of extents");
	tap_ok(count_is(&t, 0, U64_MAX, H, 3, 71) &&
	       count_is(&t, 50, U64_MAX, H, 1, 51) &&
	       count_is(&t, 100, 1, H, 1, 1) && count_is(&t, 101, 1, H, 0, 0) &&
	       count_is(&t, U64_MAX, U64_MAX, H, 0, 0),
	       "count: to the end and beyond");
	tap_ok(count_is(&t, 0, 0, H, 0, 0) && count_is(&t, 12, 0, M, 0, 0),
	       "count: nothing");
	make_comb(&t, n, 8);
	tap_ok(count_is(&t, 0, n * 8, M, n, n * 8) &&
	       count_is(&t, LEAF_MAX * 8 - 1, 2, M, 2, 2) &&
	       count_is(&t, LEAF_MAX * 8, LEAF_MAX * 8, M, LEAF_MAX,
			LEAF_MAX * 8), "count: over leaves");
	dm_loop_extents_destroy(&t);
}

/* Every allocation of @set fails once, and nothing may have changed then. */
static void set_without_memory(const char *what, u64 start, u64 len,
			       long allocations)
{
	const u64 n = 3 * LEAF_MAX;
	struct dm_loop_extents t = {};
	bool ok = true;
	long i;

	make_comb(&t, n, 8);
	for (i = 1; i <= allocations; i++) {
		shim_fail_alloc(i);
		ok = ok && set(&t, start, len, U, 3) == -ENOMEM &&
		     !shim_fail_left() && !check_table(&t) &&
		     is_comb(&t, 0, n - 1, 8);
	}
	shim_fail_alloc(allocations + 1);
	ok = ok && !set(&t, start, len, U, 3) && shim_fail_left() == 1;
	shim_fail_alloc(0);
	tap_ok(ok && !check_table(&t), "no memory: %s", what);
	dm_loop_extents_destroy(&t);
}

static void test_set_memory(void)
{
	const u64 n = 3 * LEAF_MAX, b = LEAF_MAX * 8;

	set_without_memory("an extent replaced", b + 8, 8, 1);
	set_without_memory("a leaf that splits", b + 9, 2, 3);
	set_without_memory("two leaves that become three", b - 1, 2, 4);
	set_without_memory("over all", 0, n * 8, 2);
}

/*
 * Which allocation fails decides how far it gets: leaf by leaf, then the
 * root. In the end there is the old table or the new one.
 */
static void test_builder_memory(void)
{
	const u64 n = 3 * LEAF_MAX;
	struct dm_loop_extents t = {};
	struct dm_loop_builder b;
	bool ok = true;
	int err;
	long i;
	u64 k;

	TABLE(&t, 10, { 0, 5, 5, M });
	for (i = 1; i <= 5; i++) {
		shim_fail_alloc(i);
		dm_loop_builder_init(&b, n * 8 + 1, GFP_KERNEL);
		for (err = 0, k = 0; k < n && !err; k++)
			err = append(&b, k * 8, 8, M, k * 16);
		if (err)
			dm_loop_builder_abort(&b);
		else
			err = dm_loop_builder_finish(&b, &t);
		ok = ok && err == -ENOMEM && !shim_fail_left() &&
		     IS_TABLE(&t, { 0, 5, 5, M }, { 5, 5, 0, H });
	}
	tap_ok(ok, "no memory: build, the old table stays");
	shim_fail_alloc(2);
	dm_loop_builder_init(&b, 8, GFP_KERNEL);
	append(&b, 0, 8, M, 0);
	ok = dm_loop_builder_finish(&b, &t) == -ENOMEM;
	shim_fail_alloc(0);
	tap_ok(ok && !check_table(&t), "no memory: finish frees the builder");
	dm_loop_extents_destroy(&t);
}

/* An append that failed for want of memory can be made again. */
static void test_append_again(void)
{
	struct dm_loop_extents t = {};
	struct dm_loop_builder b;
	bool ok = true;
	u64 i;

	dm_loop_builder_init(&b, 8 * LEAF_MAX + 16, GFP_KERNEL);
	for (i = 0; i < LEAF_MAX / 2; i++)
		ok = ok && !append(&b, i * 16 + 8, 8, M, i * 16);
	shim_fail_alloc(1);
	ok = ok && append(&b, i * 16 + 8, 8, M, 7) == -ENOMEM;
	shim_fail_alloc(0);
	ok = ok && !append(&b, i * 16 + 8, 8, M, 7) &&
	     !dm_loop_builder_finish(&b, &t);
	tap_ok(ok && !check_table(&t) && table_extents(&t) == LEAF_MAX + 2,
	       "no memory: the same append again");
	dm_loop_extents_destroy(&t);
}

/* A reader keeps what it has found until it leaves, whatever happens. */
static void test_grace(void)
{
	struct dm_loop_extents t = {};
	const struct dm_loop_root *root;
	const struct dm_loop_leaf *leaf;
	long before;

	rcu_barrier();
	make_comb(&t, 2 * LEAF_MAX, 8);
	shim_rcu_batch(1);
	before = shim_live();
	root = root_of(&t);
	leaf = leaf_of(root, 0);
	tap_ok(!set(&t, 0, 8, H, 0) && shim_live() == before &&
	       leaf != leaf_of(root, 0),
	       "grace: a replaced leaf is freed when nobody reads");
	shim_rcu_batch(1000);
	leaf = leaf_of(root, 0);
	set(&t, 0, 16, H, 0);
	tap_ok(leaf->nr == LEAF_MAX && shim_live() == before + 1,
	       "grace: and not before");
	set(&t, 0, LEAF_MAX * 16, H, 0);
	tap_ok(root->nr == 2 && leaf_of(root, 0)->nr == LEAF_MAX - 1,
	       "grace: nor is a root");
	root = root_of(&t);
	dm_loop_extents_destroy(&t);
	tap_ok(root->nr == 1 && leaf_of(root, 0)->nr == 1 && !root_of(&t),
	       "grace: nor what destroy leaves");
	tap_ok(!check_table(&t), "grace: in the end all is freed");
	shim_rcu_batch(16);
}

int main(void)
{
	test_empty();
	test_builder_gaps();
	test_builder_merge();
	test_builder_clip();
	test_builder_refuses();
	test_builder_leaves();
	test_builder_abort();
	test_lookup();
	test_limits();
	test_filled();
	test_split();
	test_merge();
	test_merge_cut();
	test_same();
	test_leaf_split();
	test_leaf_border();
	test_leaf_merge_across();
	test_leaf_many();
	test_leaf_three();
	test_shrink(false);
	test_shrink(true);
	test_join_both();
	test_join_not();
	test_count();
	test_set_memory();
	test_builder_memory();
	test_append_again();
	test_grace();
	return tap_done();
}
