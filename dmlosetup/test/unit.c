// SPDX-License-Identifier: GPL-2.0-only
/* Unit tests of what needs no device: sizes, table lines, kernel messages. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../dmlosetup.h"

static unsigned int nr_tests, nr_failed;

static __printf(2, 3) void ok(bool good, const char *fmt, ...)
{
	va_list ap;

	nr_tests++;
	if (!good)
		nr_failed++;
	printf("%sok %u - ", good ? "" : "not ", nr_tests);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static void test_sizes(void)
{
	static const struct {
		const char *text;
		int err;
		uint64_t value;
	} t[] = {
		{ "0", 0, 0 },
		{ "512", 0, 512 },
		{ "0512", -EINVAL, 0 },
		{ "00", -EINVAL, 0 },
		{ "0x0200", 0, 512 },
		{ "0.5K", 0, 512 },
		{ "0x200", 0, 512 },
		{ "512B", 0, 512 },
		{ "1K", 0, 1024 },
		{ "1k", 0, 1024 },
		{ "1KiB", 0, 1024 },
		{ "1KB", 0, 1000 },
		{ "3MiB", 0, 3 << 20 },
		{ "3MB", 0, 3000000 },
		{ "1.5G", 0, 3ULL << 29 },
		{ "0.5K", 0, 512 },
		{ "2T", 0, 2ULL << 40 },
		{ "1P", 0, 1ULL << 50 },
		{ "7E", 0, 7ULL << 60 },
		{ "9223372036854775807", 0, INT64_MAX },
		{ "9223372036854775808", -ERANGE, 0 },
		{ "8E", -ERANGE, 0 },
		{ "99999999999999999999999999999999999999999", -ERANGE, 0 },
		{ "1.00000000000000000000000000000000000001K", 0, 1024 },
		{ "", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 K", -EINVAL, 0 },
		{ "K", -EINVAL, 0 },
		{ "0x", -EINVAL, 0 },
		{ "1.K", -EINVAL, 0 },
		{ ".5K", -EINVAL, 0 },
		{ "1Q", -EINVAL, 0 },
		{ "1KiBs", -EINVAL, 0 },
		{ "1Ki", -EINVAL, 0 },
		{ "12x", -EINVAL, 0 },
	};
	uint64_t value;
	size_t i;
	int err;

	for (i = 0; i < ARRAY_SIZE(t); i++) {
		value = 0;
		err = parse_size(t[i].text, &value);
		ok(err == t[i].err && value == t[i].value,
		   "size \"%s\": %d, %ju", t[i].text, err, (uintmax_t)value);
	}
}

/*
 * What a path becomes on its way to the target, written down from what each
 * is documented to do: libdevmapper doubles the backslashes, device-mapper
 * takes the byte after a backslash as it is and cuts at blanks, the target
 * decodes \ooo.
 */
static char *first_word_of(const char *line, const char **rest)
{
	static char word[8192];
	char *out = word;

	for (; *line; line++) {
		unsigned char c = *line;
		unsigned int code;

		if ((c >= 9 && c <= 13) || c == ' ' || c == 0xa0)
			break;
		if (c == '\\' && sscanf(line + 1, "%3o", &code) == 1) {
			*out++ = code;
			line += 3;
		} else {
			*out++ = c;
		}
	}
	*out = '\0';
	*rest = line;
	return word;
}

static void test_quoting(void)
{
	static const char *const paths[] = {
		"/srv/disk.img",
		"/srv/my disk.img",
		"/srv/two  blanks",
		"/ends with blank ",
		"/back\\slash",
		"/ends with backslash\\",
		"/new\nline\ttab\v\f\r",
		"/d\303\240 la carte",	/* UTF-8, second byte 0xa0 */
		"/nbsp\302\240here",
		"/latin1\240byte",
		"/\\ \\\\ \\n",
		"/\\040 is no blank",
		"/# no comment",
		"/'quotes\"$(x)`;|&",
	};
	static const char *const none[] = { NULL };
	static const char *const some[] = { "mapped", "chunk", "65536", NULL };
	struct table_line parsed;
	const char *rest;
	char *line;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(paths); i++) {
		line = table_build(paths[i], 512, none);
		ok(!strcmp(first_word_of(line, &rest), paths[i]) &&
		   !strcmp(rest, " 512"), "path %zu survives the kernel", i);
		ok(!table_parse(line, &parsed) &&
		   !strcmp(parsed.path, paths[i]) && parsed.offset == 512 &&
		   !*parsed.options, "path %zu survives the way back", i);
		table_free(&parsed);
		free(line);
	}
	ok(!table_parse("/a\\040b\\x 0", &parsed) &&
	   !strcmp(parsed.path, "/a b\\x"), "octal on the way back");
	table_free(&parsed);
	line = table_build("/a b", 0, some);
	ok(!strcmp(line, "/a\\040b 0 3 mapped chunk 65536"), "options: %s", line);
	ok(!table_parse(line, &parsed) &&
	   !strcmp(parsed.options, "mapped chunk 65536"), "options come back");
	table_free(&parsed);
	free(line);
}

/* Every byte but the two that no path has. */
static void test_all_bytes(void)
{
	static const char *const none[] = { NULL };
	struct table_line parsed;
	char path[260], *line, *p = path;
	const char *rest;
	int c;

	*p++ = '/';
	for (c = 1; c < 256; c++) {
		if (c != '/')
			*p++ = c;
	}
	*p = '\0';
	line = table_build(path, 1024, none);
	ok(!strcmp(first_word_of(line, &rest), path), "all bytes, kernel");
	ok(!table_parse(line, &parsed) && !strcmp(parsed.path, path),
	   "all bytes, way back");
	table_free(&parsed);
	free(line);
}

static void test_bad_tables(void)
{
	static const char *const bad[] = {
		"", " ", "/path", "/path x", "/path -1", "/path 1x",
		"/path 99999999999999999999",
	};
	struct table_line parsed;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		ok(table_parse(bad[i], &parsed) == -EINVAL,
		   "not a table: \"%s\"", bad[i]);
}

static void test_status(void)
{
	struct status_line s;
	uint64_t value = 0;

	ok(!status_parse("mapped ext4 write+swap 3 2048 16 8 0 4 zero_reads 7 dio 1",
			 &s), "status line");
	ok(!strcmp(s.mode, "mapped") && !strcmp(s.fstype, "ext4") &&
	   !strcmp(s.pin, "write+swap") && s.extents == 3 &&
	   s.mapped == 2048 && s.hole == 16 && s.unwritten == 8 &&
	   s.shared == 0, "its fields");
	ok(status_pair(&s, "zero_reads", &value) && value == 7, "a counter");
	ok(status_pair(&s, "dio", &value) && value == 1, "the last counter");
	ok(!status_pair(&s, "7", &value), "a value is no name");
	ok(!status_pair(&s, "none", &value), "no such counter");
	status_free(&s);
	ok(!status_parse("file tmpfs write 0 0 0 0 0", &s), "without counters");
	ok(!status_pair(&s, "dio", &value), "no counter there");
	status_free(&s);
	ok(status_parse("mapped ext4 write 3", &s) == -EINVAL, "too short");
	ok(!status_parse("averyveryverylongmode ext4 write 1 1 1 1 1 0", &s),
	   "a word that is too long");
	ok(strlen(s.mode) == sizeof(s.mode) - 1, "is cut");
	status_free(&s);
}

static void test_shown(void)
{
	ok(!strcmp(shown("/a b"), "/a b"), "a blank is shown");
	ok(!strcmp(shown("/a\nb\033"), "/a\\x0ab\\x1b"), "control bytes are not");
	ok(!strcmp(shown("/a\\x0a"), "/a\\x5cx0a"), "nor what looks like them");
	ok(!strcmp(shown("/\303\240"), "/\303\240"), "UTF-8 is");
	ok(!strcmp(human(0), "0 bytes") && !strcmp(human(1023), "1023 bytes") &&
	   !strcmp(human(1536), "1.5 KiB") && !strcmp(human(1ULL << 40), "1 TiB"),
	   "sizes for people");
}

static int records(const char *const *list)
{
	static int sv[2];

	/* one record a read, as the log gives them */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv))
		exit(EXIT_FAILURE);
	for (; *list; list++) {
		if (send(sv[1], *list, strlen(*list), 0) < 0)
			exit(EXIT_FAILURE);
	}
	return sv[0];
}

static void reason_is(const char *what, const char *const *list,
		      const char *path, const char *want)
{
	char *reason = kmsg_reason(records(list), 253, 7, path);

	ok(want ? reason && !strcmp(reason, want) : !reason, "%s: %s", what,
	   reason ? reason : "(none)");
	free(reason);
}

static void test_kmsg(void)
{
	static const char *const nothing[] = {
		"6,1,5,-;loop: module loaded\n", NULL
	};
	static const char *const resume[] = {
		"3,1,5,-;dm-loop: /img: cannot resume: File was deleted (-2)\n",
		NULL
	};
	static const char *const core[] = {
		"3,1,5,-;device-mapper: ioctl: unable to set up device queue for new table.\n",
		NULL
	};
	static const char *const table[] = {
		"3,1,5,-;device-mapper: table: 253:6: loop: Other (-EBUSY)\n",
		"3,2,5,-;device-mapper: table: 253:7: loop: Invalid offset (-EINVAL)\n SUBSYSTEM=x\n",
		"3,3,5,-;device-mapper: ioctl: error adding target to table\n",
		NULL
	};
	static const char *const file[] = {
		"3,1,5,-;dm-loop: /other: Not it (-22)\n",
		"3,2,5,-;dm-loop: /a\\x0ab: File is sparse (see docs) (-95)\n",
		"3,3,5,-;device-mapper: table: 253:7: loop: Short (-EOPNOTSUPP)\n",
		NULL
	};

	reason_is("no reason", nothing, "/x", NULL);
	reason_is("of device-mapper", core, "/x",
		  "unable to set up device queue for new table.");
	reason_is("of the table", table, "/x", "Invalid offset");
	reason_is("of the file", file, "/a\nb", "File is sparse (see docs)");
	reason_is("without what the asker says", resume, "/img",
		  "File was deleted");
	ok(!kmsg_reason(-1, 1, 1, "/x"), "unreadable log");
}

int main(void)
{
	test_sizes();
	test_quoting();
	test_all_bytes();
	test_bad_tables();
	test_status();
	test_shown();
	test_kmsg();
	printf("1..%u\n", nr_tests);
	return nr_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
