// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sizes as losetup takes them: 512, 0x200, 4K, 4KiB (1024), 4KB (1000), 1.5G.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "dmlosetup.h"

static int unit_value(const char *s, uint64_t *unit)
{
	static const char letters[] = "KMGTPE";
	const char *l;
	uint64_t base;
	size_t n;

	*unit = 1;
	if (!*s || !strcasecmp(s, "B"))
		return 0;
	l = strchr(letters, toupper((unsigned char)*s));
	if (!l)
		return -EINVAL;
	if (!s[1] || !strcasecmp(s + 1, "iB"))
		base = 1024;
	else if (!strcasecmp(s + 1, "B"))
		base = 1000;
	else
		return -EINVAL;
	for (n = l - letters + 1; n; n--)
		*unit *= base;
	return 0;
}

static int digit(char c, unsigned int base)
{
	int d;

	if (c >= '0' && c <= '9')
		d = c - '0';
	else if (c >= 'a' && c <= 'f')
		d = c - 'a' + 10;
	else if (c >= 'A' && c <= 'F')
		d = c - 'A' + 10;
	else
		return -1;
	return d < (int)base ? d : -1;
}

/*
 * Returns 0, -EINVAL or -ERANGE. A size must fit off_t: no file is larger,
 * and sums of an offset and a size cannot wrap.
 */
int parse_size(const char *text, uint64_t *value)
{
	unsigned __int128 whole = 0, part = 0, scale = 1;
	unsigned int base = 10;
	const char *s = text;
	uint64_t unit;
	int err, d;

	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		base = 16;
		s += 2;
	}
	/* what losetup takes for octal: not what most people mean, so neither is done */
	if (digit(*s, base) < 0 || (base == 10 && *s == '0' && digit(s[1], 10) >= 0))
		return -EINVAL;
	for (; (d = digit(*s, base)) >= 0; s++) {
		whole = whole * base + d;
		if (whole > INT64_MAX)
			return -ERANGE;
	}
	if (*s == '.' && base == 10) {
		s++;
		if (digit(*s, 10) < 0)
			return -EINVAL;
		for (; (d = digit(*s, 10)) >= 0; s++) {
			/* further digits are less than a byte */
			if (scale >= 1000000000000000000ULL)
				continue;
			part = part * 10 + d;
			scale *= 10;
		}
	}
	err = unit_value(s, &unit);
	if (err)
		return err;
	whole = whole * unit + part * unit / scale;
	if (whole > INT64_MAX)
		return -ERANGE;
	*value = whole;
	return 0;
}
