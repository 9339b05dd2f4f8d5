// SPDX-License-Identifier: GPL-2.0-only
/* dmlosetup - set up and control dm-loop devices: options, and who does it */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dmlosetup.h"

enum {
	OPT_SHOW = 256, OPT_SIZELIMIT, OPT_MAPPED, OPT_NO_DISCARD, OPT_UNSHARE,
	OPT_CHUNK, OPT_DEFERRED, OPT_OUTPUT_ALL, OPT_RAW, OPT_PREPARE,
	OPT_SIZE, OPT_NOUDEVSYNC, OPT_SHRINK, OPT_REFRESH, OPT_SNAPSHOT,
	OPT_VERIFY, OPT_DEFRAG, OPT_REPLACE,
};

static const struct option longopts[] = {
	{ "all", no_argument, NULL, 'a' },
	{ "detach", optional_argument, NULL, 'd' },
	{ "detach-all", no_argument, NULL, 'D' },
	{ "find", no_argument, NULL, 'f' },
	{ "associated", required_argument, NULL, 'j' },
	{ "json", no_argument, NULL, 'J' },
	{ "list", no_argument, NULL, 'l' },
	{ "nooverlap", no_argument, NULL, 'L' },
	{ "noheadings", no_argument, NULL, 'n' },
	{ "offset", required_argument, NULL, 'o' },
	{ "output", required_argument, NULL, 'O' },
	{ "read-only", no_argument, NULL, 'r' },
	{ "verbose", no_argument, NULL, 'v' },
	{ "version", no_argument, NULL, 'V' },
	{ "help", no_argument, NULL, 'h' },
	{ "show", no_argument, NULL, OPT_SHOW },
	{ "sizelimit", required_argument, NULL, OPT_SIZELIMIT },
	{ "mapped", no_argument, NULL, OPT_MAPPED },
	{ "no-discard", no_argument, NULL, OPT_NO_DISCARD },
	{ "unshare", no_argument, NULL, OPT_UNSHARE },
	{ "chunk", required_argument, NULL, OPT_CHUNK },
	{ "deferred", no_argument, NULL, OPT_DEFERRED },
	{ "output-all", no_argument, NULL, OPT_OUTPUT_ALL },
	{ "raw", no_argument, NULL, OPT_RAW },
	{ "prepare", optional_argument, NULL, OPT_PREPARE },
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "set-capacity", optional_argument, NULL, 'c' },
	{ "shrink", no_argument, NULL, OPT_SHRINK },
	{ "refresh", optional_argument, NULL, OPT_REFRESH },
	{ "snapshot", optional_argument, NULL, OPT_SNAPSHOT },
	{ "defrag", optional_argument, NULL, OPT_DEFRAG },
	{ "replace", optional_argument, NULL, OPT_REPLACE },
	{ "verify", optional_argument, NULL, OPT_VERIFY },
	{ "noudevsync", no_argument, NULL, OPT_NOUDEVSYNC },
	{ NULL, 0, NULL, 0 }
};

/* What was seen, before it is clear what it means together. */
struct seen {
	bool all, noudevsync;
	enum action action;	/* the first of actions[] */
	bool attach_option;	/* one that only an attach takes */
	const char *associated;
	const char *actions[2];	/* the first two, for the message */
	size_t nr_actions;
	char **args;		/* NAME and FILE, wherever they stood */
	int nr_args;
};

static void usage(void)
{
	fputs("Usage:\n"
	      " dmlosetup [-l] [NAME]                       show devices, or one of them\n"
	      " dmlosetup -a | -j FILE [-o OFFSET]          the same, a line each\n"
	      " dmlosetup -f                                print the first free name\n"
	      " dmlosetup [OPTIONS] -f [--show] FILE        attach FILE to a free device\n"
	      " dmlosetup [OPTIONS] NAME FILE               attach FILE as /dev/mapper/NAME\n"
	      " dmlosetup -d [--deferred] NAME...           detach devices\n"
	      " dmlosetup -D [--deferred]                   detach all of them\n"
	      " dmlosetup --prepare FILE [--size SIZE]      make FILE fully written\n"
	      " dmlosetup -c NAME [--size SIZE] [--shrink]  resize a device in use\n"
	      " dmlosetup --snapshot NAME FILE              clone the image of a device in use\n"
	      " dmlosetup --replace NAME FILE               move the image to FILE\n"
	      " dmlosetup --defrag NAME                     move its blocks together\n"
	      " dmlosetup --refresh NAME...                 read the map of the file again\n"
	      " dmlosetup --verify [-a|NAME...]             compare the map with the filesystem\n"
	      "\n"
	      "Set up and control dm-loop devices: block devices on regular files.\n"
	      "\n"
	      "Attach:\n"
	      " -f, --find                 take the first free device\n"
	      "     --show                 print the name of the device\n"
	      " -r, --read-only            attach read-only\n"
	      " -o, --offset SIZE          start at this place of the file\n"
	      "     --sizelimit SIZE       take no more of the file than this\n"
	      " -L, --nooverlap            reuse a device that shows the same part already\n"
	      "     --mapped               never go through the filesystem (swap needs it)\n"
	      "     --no-discard           do not give discarded blocks back\n"
	      "     --unshare              copy the blocks that the file shares with clones\n"
	      "     --chunk SIZE           allocate space for first writes in such pieces\n"
	      "Detach:\n"
	      " -d, --detach NAME...       detach, by name or node\n"
	      " -D, --detach-all           detach all dm-loop devices\n"
	      "     --deferred             detach when the last user closes the device\n"
	      "Prepare:\n"
	      "     --prepare FILE         write zeroes where FILE has no data; keep the rest\n"
	      "     --size SIZE            create FILE, or extend it, to this size\n"
	      "Change a device in use:\n"
	      " -c, --set-capacity NAME    as large as its file is, or as --size says\n"
	      "     --shrink               it may become smaller, and the file with it\n"
	      "     --snapshot NAME FILE   write what the image is at one moment to FILE\n"
	      "     --replace NAME FILE    copy the image to FILE, which takes its place\n"
	      "     --defrag NAME          give the file blocks that lie together\n"
	      "     --refresh NAME...      suspend and resume; resume what is suspended\n"
	      "     --verify [-a|NAME...]  without a name, all of them\n"
	      "List:\n"
	      " -a, --all                  all devices, a line each\n"
	      " -j, --associated FILE      the devices on FILE\n"
	      " -l, --list                 a table\n"
	      " -n, --noheadings           no headings\n"
	      " -O, --output COLUMNS       which columns; +COLUMNS adds to the default ones\n"
	      "     --output-all           every column\n"
	      "     --raw                  no alignment\n"
	      " -J, --json                 JSON\n"
	      "Other:\n"
	      "     --noudevsync           do not wait for udev\n"
	      " -v, --verbose              say more\n"
	      " -h, --help                 this text\n"
	      " -V, --version              the version\n"
	      "\n"
	      "SIZE is in bytes, or has a suffix: KiB (or K), MiB, GiB, TiB are powers of\n"
	      "1024, and KB, MB, GB, TB of 1000.\n"
	      "\n"
	      "Columns:\n", stdout);
	list_columns_help();
	fputs("\nFor more see dmlosetup(8).\n", stdout);
}

static void try_help(void)
{
	fputs("Try 'dmlosetup --help' for more information.\n", stderr);
}

static int size_option(const char *name, const char *text, uint64_t *value)
{
	int err = parse_size(text, value);

	if (err == -ERANGE)
		complain("%s %s is too large", name, shown(text));
	else if (err)
		complain("%s %s is not a size; give bytes, or a number with K, M, G, T, KiB or KB",
			 name, shown(text));
	return err;
}

/* --detach=NAME and -dNAME are the same as --detach NAME */
static void operand(struct seen *seen, char *arg)
{
	if (arg)
		seen->args[seen->nr_args++] = arg;
}

/* The same one twice is one. */
static void action(struct seen *seen, enum action act, const char *name)
{
	operand(seen, optarg);
	if (seen->nr_actions && seen->action == act)
		return;
	if (!seen->nr_actions)
		seen->action = act;
	if (seen->nr_actions < ARRAY_SIZE(seen->actions))
		seen->actions[seen->nr_actions] = name;
	seen->nr_actions++;
}

static int list_option(int c, struct options *opts, struct seen *seen)
{
	switch (c) {
	case 'a':
		seen->all = true;
		break;
	case 'j':
		seen->associated = optarg;
		break;
	case 'l':
		opts->table = true;
		break;
	case 'n':
		opts->noheadings = true;
		opts->table = true;
		break;
	case 'O':
		opts->columns = optarg;
		opts->table = true;
		break;
	case OPT_OUTPUT_ALL:
		opts->output_all = true;
		opts->table = true;
		break;
	case OPT_RAW:
		opts->raw = true;
		opts->table = true;
		break;
	case 'J':
		opts->json = true;
		opts->table = true;
		break;
	default:
		return -EINVAL;
	}
	return 0;
}

static int attach_option(int c, struct options *opts, struct seen *seen)
{
	seen->attach_option = true;
	switch (c) {
	case OPT_SHOW:
		opts->show = true;
		return 0;
	case 'r':
		opts->read_only = true;
		return 0;
	case 'L':
		opts->nooverlap = true;
		return 0;
	case OPT_SIZELIMIT:
		return size_option("--sizelimit", optarg, &opts->sizelimit);
	case OPT_MAPPED:
		opts->mapped = true;
		return 0;
	case OPT_NO_DISCARD:
		opts->no_discard = true;
		return 0;
	case OPT_UNSHARE:
		opts->unshare = true;
		return 0;
	case OPT_CHUNK:
		return size_option("--chunk", optarg, &opts->chunk);
	default:
		return -EINVAL;
	}
}

static int action_option(int c, struct options *opts, struct seen *seen)
{
	switch (c) {
	case 'd':
		action(seen, ACT_DETACH, "--detach");
		break;
	case 'D':
		action(seen, ACT_DETACH_ALL, "--detach-all");
		break;
	case 'f':
		action(seen, ACT_FIND, "--find");
		break;
	case 'c':
		action(seen, ACT_SET_CAPACITY, "--set-capacity");
		break;
	case OPT_PREPARE:
		action(seen, ACT_PREPARE, "--prepare");
		break;
	case OPT_REFRESH:
		action(seen, ACT_REFRESH, "--refresh");
		break;
	case OPT_SNAPSHOT:
		action(seen, ACT_SNAPSHOT, "--snapshot");
		break;
	case OPT_DEFRAG:
		action(seen, ACT_DEFRAG, "--defrag");
		break;
	case OPT_REPLACE:
		action(seen, ACT_REPLACE, "--replace");
		break;
	case OPT_VERIFY:
		action(seen, ACT_VERIFY, "--verify");
		break;
	case OPT_SHRINK:
		opts->shrink = true;
		break;
	case 'o':
		opts->has_offset = true;
		return size_option("--offset", optarg, &opts->offset);
	case OPT_SIZE:
		opts->has_size = true;
		return size_option("--size", optarg, &opts->size);
	case OPT_DEFERRED:
		opts->deferred = true;
		break;
	case OPT_NOUDEVSYNC:
		seen->noudevsync = true;
		break;
	case 'v':
		verbose = true;
		break;
	default:
		return -EINVAL;
	}
	return 0;
}

static int one_option(int c, struct options *opts, struct seen *seen)
{
	switch (c) {
	case 'a': case 'j': case 'l': case 'n': case 'O': case 'J':
	case OPT_OUTPUT_ALL: case OPT_RAW:
		return list_option(c, opts, seen);
	case OPT_SHOW: case 'r': case 'L': case OPT_SIZELIMIT: case OPT_MAPPED:
	case OPT_NO_DISCARD: case OPT_UNSHARE: case OPT_CHUNK:
		return attach_option(c, opts, seen);
	case '?':
		/* getopt has said what it does not know */
		try_help();
		return -EINVAL;
	default:
		return action_option(c, opts, seen);
	}
}

static int wrong(const char *text)
{
	complain("%s", text);
	try_help();
	return -EINVAL;
}

static int decide_find(struct options *opts, char **args, int nr)
{
	if (nr > 1)
		return wrong("--find takes one file");
	opts->action = nr ? ACT_ATTACH : ACT_FIND;
	opts->file = nr ? args[0] : NULL;
	return 0;
}

static int decide_list(struct options *opts, const struct seen *seen,
		       char **args, int nr)
{
	if (seen->associated || seen->all) {
		if (nr)
			return wrong("too many arguments");
		opts->action = ACT_LIST;
		opts->file = seen->associated;
		return 0;
	}
	if (nr == 1) {
		opts->action = ACT_SHOW_ONE;
		opts->name = args[0];
		return 0;
	}
	if (nr == 2 && !opts->table) {
		opts->action = ACT_ATTACH;
		opts->name = args[0];
		opts->file = args[1];
		return 0;
	}
	if (nr)
		return wrong("too many arguments");
	opts->action = ACT_LIST;
	opts->table = true;
	return 0;
}

/* Options that have no meaning where they stand are refused, not ignored. */
static int check_combination(const struct options *opts,
			     const struct seen *seen)
{
	bool listing = (seen->all && opts->action != ACT_VERIFY) ||
		       seen->associated || opts->table;
	bool attach = opts->action == ACT_ATTACH;

	if (opts->has_size && opts->action != ACT_PREPARE &&
	    opts->action != ACT_SET_CAPACITY)
		return wrong("--size goes with --prepare and --set-capacity only");
	if (opts->shrink && opts->action != ACT_SET_CAPACITY)
		return wrong("--shrink goes with --set-capacity only");
	if (opts->deferred && opts->action != ACT_DETACH &&
	    opts->action != ACT_DETACH_ALL)
		return wrong("--deferred goes with --detach and --detach-all only");
	if (seen->all && opts->action == ACT_VERIFY && *opts->devices)
		return wrong("--verify takes --all or devices, not both");
	if (seen->attach_option && !attach)
		return wrong("options for attaching need a file to attach");
	if (opts->has_offset && !attach && !seen->associated)
		return wrong("--offset needs a file to attach, or --associated");
	if (listing && opts->action != ACT_LIST && opts->action != ACT_SHOW_ONE)
		return wrong("options for listing do not go with another action");
	return 0;
}

static int decide_action(struct options *opts, enum action act, char **args,
			 int nr)
{
	opts->action = act;
	opts->devices = args;
	switch (act) {
	case ACT_FIND:
		return decide_find(opts, args, nr);
	case ACT_DETACH:
	case ACT_REFRESH:
		return nr ? 0 : wrong("the name of a device is missing");
	case ACT_DETACH_ALL:
		return nr ? wrong("--detach-all takes no name") : 0;
	case ACT_PREPARE:
		opts->file = args[0];
		return nr == 1 ? 0 : wrong("--prepare takes one file");
	case ACT_SET_CAPACITY:
		opts->name = args[0];
		return nr == 1 ? 0 : wrong("--set-capacity takes one device");
	case ACT_SNAPSHOT:
		opts->name = args[0];
		opts->file = args[1];
		return nr == 2 ? 0 : wrong("--snapshot takes a device and a file");
	case ACT_REPLACE:
		opts->name = args[0];
		opts->file = args[1];
		return nr == 2 ? 0 : wrong("--replace takes a device and a file");
	case ACT_DEFRAG:
		opts->name = args[0];
		return nr == 1 ? 0 : wrong("--defrag takes one device");
	default:
		return 0;
	}
}

static int decide(struct options *opts, const struct seen *seen)
{
	char **args = seen->args;
	int nr = seen->nr_args;
	int err;

	if (seen->nr_actions > 1) {
		complain("%s and %s do not go together", seen->actions[0],
			 seen->actions[1]);
		try_help();
		return -EINVAL;
	}
	err = seen->nr_actions ? decide_action(opts, seen->action, args, nr) :
				 decide_list(opts, seen, args, nr);
	return err ? err : check_combination(opts, seen);
}

static int run_action(const struct options *opts)
{
	switch (opts->action) {
	case ACT_SHOW_ONE:
		return do_show_one(opts);
	case ACT_FIND:
		return do_find(opts);
	case ACT_ATTACH:
		return do_attach(opts);
	case ACT_DETACH:
		return do_detach(opts);
	case ACT_DETACH_ALL:
		return do_detach_all(opts);
	case ACT_PREPARE:
		return do_prepare(opts);
	case ACT_SET_CAPACITY:
		return do_set_capacity(opts);
	case ACT_REFRESH:
		return do_refresh(opts);
	case ACT_SNAPSHOT:
		return do_snapshot(opts);
	case ACT_DEFRAG:
		return do_defrag(opts);
	case ACT_REPLACE:
		return do_replace(opts);
	case ACT_VERIFY:
		return do_verify(opts);
	case ACT_LIST:
		break;
	}
	return do_list(opts);
}

/*
 * What is opened from here on is never standard output or error, or words for
 * people would go into an image. One that was closed still fails.
 */
static void open_standard_files(void)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) < 0 &&
		    open("/dev/null", fd ? O_RDONLY : O_WRONLY) != fd)
			exit(EXIT_FAILURE);
	}
}

int main(int argc, char **argv)
{
	struct options opts = { 0 };
	struct seen seen = { 0 };
	int c, status;

	open_standard_files();
	/* only for the width of characters: figures keep their point */
	setlocale(LC_CTYPE, "");
	/* a reader that has gone away is an error like any other */
	signal(SIGPIPE, SIG_IGN);
	/* and so is a limit, rather than an end with a file half written */
	signal(SIGXFSZ, SIG_IGN);
	guard_init(argc, argv);
	seen.args = xcalloc(argc + 2, sizeof(*seen.args));
	while ((c = getopt_long(argc, argv, "ac::d::Dfj:JlLno:O:rvVh", longopts,
				NULL)) != -1) {
		if (c == 'h') {
			usage();
			return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
		}
		if (c == 'V') {
			puts("dmlosetup from dm-loop " DMLOSETUP_VERSION);
			return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
		}
		if (one_option(c, &opts, &seen))
			return EXIT_FAILURE;
	}
	while (optind < argc)
		operand(&seen, argv[optind++]);
	if (decide(&opts, &seen))
		return EXIT_FAILURE;
	dm_begin(seen.noudevsync);
	status = run_action(&opts);
	dm_end();
	free(seen.args);
	return status;
}
