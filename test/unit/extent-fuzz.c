// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bytes as a list of calls, right and wrong ones, compared with the model.
 *
 * With libFuzzer (make libfuzzer) its engine chooses the bytes. Otherwise they
 * come from the files named, or are random: SEED=n repeats, RUNS=n says how many.
 */
#include <time.h>

#include "model.h"

#define MAX_SIZE 1500

struct input {
	const u8 *data;
	size_t left;
};

static u64 take(struct input *in, unsigned int bytes)
{
	u64 v = 0;

	while (bytes--) {
		v = v << 8 | (in->left ? *in->data : 0);
		if (in->left) {
			in->data++;
			in->left--;
		}
	}
	return v;
}

struct call {
	u64 start, len, phys;
	unsigned int state;
};

/* Mostly small numbers; sometimes one from the end of what 64 bits hold. */
static u64 take_number(struct input *in, u64 max)
{
	u64 v = take(in, 2);

	if (v >= 0xff00)
		return DM_LOOP_SECTOR_END - 128 + (v & 0xff);
	if (v >= 0xfe00)
		return U64_MAX - (v & 0xff);
	return v % max;
}

static struct call take_call(struct input *in)
{
	u64 how = take(in, 1);
	struct call c;

	c.start = take_number(in, MAX_SIZE);
	c.len = take_number(in, how & 1 ? 3 : how & 2 ? 40 : MAX_SIZE);
	c.state = (how >> 2 & 7) % DM_LOOP_NR_STATES;
	if (how >= 0xfc)
		c.state = how;	/* no such state */
	/* few places, so that neighbours often continue each other */
	c.phys = how & 0x40 ? take_number(in, 8) :
		 c.start + (how & 0x20 ? 10000 : 0);
	return c;
}

static bool is_valid(const struct call *c)
{
	const u64 end = DM_LOOP_SECTOR_END;
	u64 phys = dm_loop_has_place(c->state) ? c->phys : 0;

	return c->state < DM_LOOP_NR_STATES && c->len && c->len <= end && c->start <= end &&
	       phys <= end && c->start + c->len <= end && phys + c->len <= end;
}

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	tap_diag("fuzz: %s", what);
	abort();
}

static void fuzz_build(struct input *in, struct dm_loop_extents *t,
		       struct model *m)
{
	struct dm_loop_builder b;
	unsigned int n = take(in, 2) % 600;
	u64 next = 0, end;
	struct call c;
	int err;

	model_set(m, 0, m->size, DM_LOOP_HOLE, 0);
	dm_loop_builder_init(&b, m->size, GFP_KERNEL);
	while (n-- && in->left) {
		c = take_call(in);
		if (c.start < MAX_SIZE && c.phys & 1)
			c.start = next + c.start % 4;	/* in order, for once */
		err = dm_loop_builder_append(&b, c.start, c.len, c.state,
					     c.phys);
		must(err == (is_valid(&c) && c.start >= next ? 0 : -EINVAL),
		     "append");
		if (err)
			continue;
		next = c.start + c.len;
		end = min(next, m->size);
		if (c.start < end)
			model_set(m, c.start, end - c.start, c.state, c.phys);
	}
	must(!dm_loop_builder_finish(&b, t), "finish");
}

static void fuzz_set(struct input *in, struct dm_loop_extents *t,
		     struct model *m)
{
	struct call c = take_call(in);
	bool valid = is_valid(&c) && c.start + c.len <= m->size;
	int err;

	shim_fail_alloc(take(in, 1) == 1 ? 1 : 0);
	err = dm_loop_extents_set(t, c.start, c.len, c.state, c.phys,
				  GFP_KERNEL);
	shim_fail_alloc(0);
	if (err == -ENOMEM)
		return;
	must(err == (valid ? 0 : -EINVAL), "set");
	if (valid)
		model_set(m, c.start, c.len, c.state, c.phys);
}

static void fuzz_check(const struct dm_loop_extents *t, const struct model *m)
{
	const char *bad = model_compare(m, t);

	must(!bad, bad);
	bad = model_compare_count(m, t, 0, m->size);
	must(!bad, bad);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, size };
	struct dm_loop_extents t = {};
	struct model m;
	unsigned int n;

	model_init(&m, 1 + take(&in, 2) % MAX_SIZE);
	fuzz_build(&in, &t, &m);
	fuzz_check(&t, &m);
	for (n = 0; in.left; n++) {
		fuzz_set(&in, &t, &m);
		if (n % 8 == 0)
			fuzz_check(&t, &m);
	}
	fuzz_check(&t, &m);
	dm_loop_extents_destroy(&t);
	must(!check_table(&t), "destroy");
	model_free(&m);
	return 0;
}

#ifndef LIBFUZZER
static void run_file(const char *name)
{
	static u8 data[1 << 20];
	FILE *f = fopen(name, "rb");
	size_t n;

	if (!f) {
		tap_ok(false, "%s: cannot be read", name);
		return;
	}
	n = fread(data, 1, sizeof(data), f);
	fclose(f);
	LLVMFuzzerTestOneInput(data, n);
	tap_ok(true, "%s: %zu bytes", name, n);
}

static void run_random(u64 seed, u64 runs)
{
	u8 data[12000];
	u64 run, i, x, size;

	for (run = 0; run < runs; run++) {
		x = (seed + run) * 0x9e3779b97f4a7c15ULL | 1;
		for (i = 0; i < sizeof(data); i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			data[i] = x >> 32;
		}
		size = run % 16 == 15 ? sizeof(data) : x % 600;
		LLVMFuzzerTestOneInput(data, size);
	}
	tap_ok(true, "%llu random inputs", (unsigned long long)runs);
}

int main(int argc, char **argv)
{
	u64 seed = tap_env("SEED", (u64)time(NULL));
	int i;

	for (i = 1; i < argc; i++)
		run_file(argv[i]);
	if (argc == 1) {
		tap_diag("SEED=%llu", (unsigned long long)seed);
		run_random(seed, tap_env("RUNS", 1500));
	}
	return tap_done();
}
#endif
