// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random changes to a table, compared with a model after each of them.
 *
 * SEED=n repeats a run, STEPS=n sets its length.
 */
#include <time.h>

#include "model.h"
#include "rnd.h"

#define SIZE 4093	/* no multiple of anything; up to 16 leaves */

static u64 rnd_state;

static u64 rnd(u64 below)
{
	return rnd_next(&rnd_state, below);
}

/*
 * How the steps of a phase look: phases that fragment the table come before
 * those that clear it up, else it would be half of either all the time.
 */
struct phase {
	const char *name;
	u64 max_len;
	unsigned int states;	/* choose from the first so many */
	u64 places;		/* few: what lies together often merges */
};

static const struct phase phases[] = {
	{ "fragment", 1, DM_LOOP_NR_STATES, 1000 },
	{ "mixed", 16, DM_LOOP_NR_STATES, 2 },
	{ "long", 700, DM_LOOP_NR_STATES, 2 },
	{ "fragment", 3, DM_LOOP_NR_STATES, 3 },
	{ "heal", 64, 2, 1 },
	{ "fragment", 2, DM_LOOP_NR_STATES, 1000 },
	{ "wipe", SIZE, DM_LOOP_NR_STATES, 1 },
};

#define NR_PHASES ARRAY_SIZE(phases)

struct step {
	u64 start, len, phys;
	enum dm_loop_state state;
};

static struct step choose_step(const struct phase *p)
{
	struct step s;

	s.len = 1 + rnd(p->max_len);
	s.start = rnd(SIZE - s.len + 1);
	s.state = rnd(p->states);
	/* the same sector lies at one of a few places far apart */
	s.phys = s.start + rnd(p->places) * 0x100000;
	if (rnd(4) == 0)	/* begin on a multiple, as file blocks do */
		s.start = s.start / 8 * 8;
	return s;
}

/*
 * What readers see from the very moment at which a change is published: the
 * complete table after the change. There is one such moment, so before it they
 * see the complete table before the change.
 */
static struct {
	const struct dm_loop_extents *t;
	const struct model *m;
	unsigned int nr;
	const char *bad;
} published;

static void check_published(void)
{
	const struct dm_loop_root *root = root_of(published.t);
	const char *bad;

	published.nr++;
	bad = root ? check_root(root) : "nothing was published";
	if (!bad)
		bad = model_compare_answers(published.m, published.t);
	if (!published.bad)
		published.bad = bad ?: published.nr > 1 ?
				"a change in two steps" : NULL;
}

static void expect_published(const struct dm_loop_extents *t,
			     const struct model *m)
{
	published.t = t;
	published.m = m;
	published.nr = 0;
	published.bad = NULL;
	shim_published = check_published;
}

static const char *was_published(void)
{
	shim_published = NULL;
	return published.bad;
}

/* Every allocation of a change fails once before the change succeeds. */
static const char *set_with_failures(struct dm_loop_extents *t,
				     struct model *m, const struct step *s)
{
	const char *bad;
	long n;
	int err;

	for (n = 1; ; n++) {
		shim_fail_alloc(n);
		err = dm_loop_extents_set(t, s->start, s->len, s->state,
					  s->phys, GFP_KERNEL);
		if (shim_fail_left() > 0)
			break;		/* made no n-th allocation */
		if (err != -ENOMEM)
			return "success without memory";
		bad = model_compare(m, t);
		if (bad)
			return bad;
	}
	shim_fail_alloc(0);
	model_set(m, s->start, s->len, s->state, s->phys);
	return err ? "set failed" : NULL;
}

static const char *set_and_watch(struct dm_loop_extents *t, struct model *m,
				 const struct step *s)
{
	const char *bad;
	int err;

	model_set(m, s->start, s->len, s->state, s->phys);
	expect_published(t, m);
	err = dm_loop_extents_set(t, s->start, s->len, s->state, s->phys,
				  GFP_KERNEL);
	bad = was_published();
	return err ? "set failed" : bad;
}

static const char *one_step(struct dm_loop_extents *t, struct model *m,
			    const struct step *s)
{
	const char *bad;
	u64 start = rnd(SIZE), len = rnd(SIZE + 10);

	if (rnd(16) == 0)
		bad = set_with_failures(t, m, s);
	else
		bad = set_and_watch(t, m, s);
	bad = bad ?: model_compare(m, t);
	return bad ?: model_compare_count(m, t, start, len);
}

/* A table loaded anew while the old one is there, as a resume does. */
static const char *reload(struct dm_loop_extents *t, const struct model *m)
{
	long n;
	int err;

	for (n = 1; rnd(2); n += 1 + rnd(3)) {
		shim_fail_alloc(n);
		err = model_build(m, t, rnd(2));
		if (!err && shim_fail_left() <= 0)
			return "a table built without memory";
		if (model_compare(m, t))
			return "not like the model after a failed build";
	}
	shim_fail_alloc(0);
	expect_published(t, m);
	err = model_build(m, t, rnd(2));
	if (was_published() || err)
		return published.bad ?: "building failed";
	return model_compare(m, t);
}

static bool run_phase(const struct phase *p, struct dm_loop_extents *t,
		      struct model *m, u64 steps)
{
	u64 i, max_leaves = 0;
	const char *bad = NULL;
	struct step s = {};

	for (i = 0; i < steps && !bad; i++) {
		s = choose_step(p);
		bad = one_step(t, m, &s);
		if (table_leaves(t) > max_leaves)
			max_leaves = table_leaves(t);
	}
	if (bad)
		tap_diag("step %llu: set %llu + %llu state %d phys %llu: %s",
			 (unsigned long long)i, (unsigned long long)s.start,
			 (unsigned long long)s.len, s.state,
			 (unsigned long long)s.phys, bad);
	else
		bad = reload(t, m);
	return tap_ok(!bad,
		      "%s: steps %llu, at most %llu leaves, now %llu extents%s%s",
		      p->name, (unsigned long long)i,
		      (unsigned long long)max_leaves,
		      (unsigned long long)table_extents(t), bad ? ": " : "",
		      bad ?: "");
}

int main(void)
{
	u64 seed = tap_env("SEED", (u64)time(NULL)), i;
	u64 steps = tap_env("STEPS", 21000) / (3 * NR_PHASES);
	struct dm_loop_extents t = {};
	struct model m;

	tap_diag("SEED=%llu", (unsigned long long)seed);
	rnd_state = seed * 2 + 1;
	model_init(&m, SIZE);
	tap_ok(!model_build(&m, &t, true) && !model_compare(&m, &t),
	       "an empty file");
	for (i = 0; i < 3 * NR_PHASES; i++)
		if (!run_phase(&phases[i % NR_PHASES], &t, &m, steps))
			break;
	dm_loop_extents_destroy(&t);
	tap_ok(!check_table(&t), "nothing left after destroy");
	model_free(&m);
	return tap_done();
}
