// SPDX-License-Identifier: GPL-2.0-only
/*
 * The target's table line, "<path> <offset> [<n> <options>]", and its status
 * line. The kernel cuts a table line at every byte that its isspace() takes
 * for a blank, dmsetup cuts one at # and at a newline, and libdevmapper
 * doubles every backslash, so that a backslash cannot quote anything. In a
 * path such bytes are written as \ooo, which the target itself decodes.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dmlosetup.h"

/*
 * Not the C library's isspace(): the kernel's table is Latin-1, where 0xa0
 * is a blank, and it does not depend on the locale. 0xa0 is also the second
 * byte of characters such as U+00E0 in UTF-8.
 */
static bool kernel_space(unsigned char c)
{
	return (c >= 9 && c <= 13) || c == 32 || c == 0xa0;
}

/* The path as one word of a table line; the caller frees it. */
char *table_quote(const char *path)
{
	char *word = xcalloc(4 * strlen(path) + 1, 1);
	char *out = word;

	for (; *path; path++) {
		unsigned char c = *path;

		if (kernel_space(c) || c < 0x20 || c == 0x7f || c == '#' ||
		    c == '\\')
			out += sprintf(out, "\\%03o", c);
		else
			*out++ = c;
	}
	return word;
}

/* @options ends with NULL; the caller frees the result. */
char *table_build(const char *path, uint64_t offset, const char *const *options)
{
	char *word = table_quote(path);
	char *line = xasprintf("%s %ju", word, (uintmax_t)offset);
	size_t nr = 0;
	char *longer;

	while (options[nr])
		nr++;
	if (nr) {
		longer = xasprintf("%s %zu", line, nr);
		free(line);
		line = longer;
	}
	for (; *options; options++) {
		longer = xasprintf("%s %s", line, *options);
		free(line);
		line = longer;
	}
	free(word);
	return line;
}

static bool octal(const char *s)
{
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' &&
	       s[2] >= '0' && s[2] <= '7';
}

/* Takes one word off *@s, without its escapes; NULL at the end. */
static char *next_word(const char **s)
{
	const char *p = *s;
	char *word, *out;

	while (*p && kernel_space(*p))
		p++;
	if (!*p)
		return NULL;
	word = xcalloc(strlen(p) + 1, 1);
	out = word;
	while (*p && !kernel_space(*p)) {
		if (*p == '\\' && octal(p + 1)) {
			*out++ = (p[1] - '0') << 6 | (p[2] - '0') << 3 |
				 (p[3] - '0');
			p += 4;
			continue;
		}
		*out++ = *p++;
	}
	*s = p;
	return word;
}

static int next_number(const char **s, uint64_t *value)
{
	char *word = next_word(s);
	char *end;
	int err = 0;

	if (!word)
		return -EINVAL;
	errno = 0;
	*value = strtoull(word, &end, 10);
	if (!isdigit((unsigned char)*word) || *end || errno)
		err = -EINVAL;
	free(word);
	return err;
}

static char *rest_of(const char *s)
{
	while (*s && kernel_space(*s))
		s++;
	return xstrdup(s);
}

int table_parse(const char *params, struct table_line *line)
{
	uint64_t nr;

	memset(line, 0, sizeof(*line));
	line->path = next_word(&params);
	if (!line->path)
		return -EINVAL;
	if (next_number(&params, &line->offset)) {
		table_free(line);
		return -EINVAL;
	}
	/* without a count there are no options */
	next_number(&params, &nr);
	line->options = rest_of(params);
	return 0;
}

void table_free(struct table_line *line)
{
	free(line->path);
	free(line->options);
	memset(line, 0, sizeof(*line));
}

/* Whether the option, with its value if it has one, is among the words. */
bool table_option(const struct table_line *line, const char *option)
{
	size_t len = strlen(option);
	const char *s = line->options;

	while ((s = strstr(s, option))) {
		if ((s == line->options || s[-1] == ' ') &&
		    (!s[len] || s[len] == ' '))
			return true;
		s++;
	}
	return false;
}

static int copy_word(const char **s, char *dst, size_t size)
{
	char *word = next_word(s);

	if (!word)
		return -EINVAL;
	snprintf(dst, size, "%s", word);
	free(word);
	return 0;
}

int status_parse(const char *params, struct status_line *line)
{
	uint64_t nr;

	memset(line, 0, sizeof(*line));
	if (copy_word(&params, line->mode, sizeof(line->mode)) ||
	    copy_word(&params, line->fstype, sizeof(line->fstype)) ||
	    copy_word(&params, line->pin, sizeof(line->pin)) ||
	    next_number(&params, &line->extents) ||
	    next_number(&params, &line->mapped) ||
	    next_number(&params, &line->hole) ||
	    next_number(&params, &line->unwritten) ||
	    next_number(&params, &line->shared))
		return -EINVAL;
	next_number(&params, &nr);
	line->pairs = rest_of(params);
	return 0;
}

void status_free(struct status_line *line)
{
	free(line->pairs);
	memset(line, 0, sizeof(*line));
}

/* A counter of the status line by its name. */
bool status_pair(const struct status_line *line, const char *name,
		 uint64_t *value)
{
	const char *s = line->pairs;
	char *key, *word, *end;
	bool hit = false;

	while (s && !hit) {
		key = next_word(&s);
		word = key ? next_word(&s) : NULL;
		if (!word) {
			free(key);
			break;
		}
		if (!strcmp(key, name)) {
			*value = strtoull(word, &end, 10);
			hit = !*end;
		}
		free(key);
		free(word);
	}
	return hit;
}
