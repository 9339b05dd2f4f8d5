# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the host-side scripts of the VM tests have in common. Sourced, not run.

set -Eeuo pipefail
umask 022

vmdir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # used by the scripts that source this file
top=$(cd "$vmdir/../.." && pwd)
# shellcheck disable=SC2034
build=${DMLOOP_BUILD:-$top/build}
cache=${DMLOOP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dm-loop}

# The kernels that the project is tested with.
# shellcheck disable=SC2034
kernels="6.1 6.12 7.2"

# Debian of the guest, and of the host whose compiler builds for 6.1 and 6.12.
guest_suite=bookworm

say()
{
	printf '%s\n' "dm-loop: $*" >&2
}

die()
{
	say "$*"
	exit 1
}

# The suites that may have the kernel, the first one that has it wins.
kernel_suites()
{
	case $1 in
	6.1)  echo "$guest_suite-security $guest_suite" ;;
	6.12) echo "$guest_suite-security $guest_suite-backports" ;;
	7.2)  echo "forky sid" ;;
	debug) kernel_suites 7.2 ;;
	*)    die "unknown kernel '$1', use one of: $kernels debug" ;;
	esac
}

# Everything takes longer in the debug kernel, and it needs memory for itself.
kernel_settings()
{
	[ "$1" = debug ] || return 0
	export DMLOOP_TIME_FACTOR=${DMLOOP_TIME_FACTOR:-4}
	export DMLOOP_HUNG_TASK=${DMLOOP_HUNG_TASK:-240} DMLOOP_HUNG_PANIC=${DMLOOP_HUNG_PANIC:-1}
	export DMLOOP_MEM=${DMLOOP_MEM:-3072}
}

# Does the host's compiler build for this kernel, or a newer Debian's?
needs_chroot()
{
	[[ $1 == 7.* ]]
}

# Only one process at a time fills the cache; the others wait and find it done.
lock_cache()
{
	mkdir -p "$cache"
	exec {cache_lock}>"$cache/lock"
	if ! flock -n "$cache_lock"; then
		say "waiting for another process that fills $cache"
		flock "$cache_lock"
	fi
}

unlock_cache()
{
	exec {cache_lock}>&-
}

# Run a long command quietly: its output goes to a log that is shown when it fails.
logged()
{
	local log=$1
	shift
	mkdir -p "$(dirname "$log")"
	if ! "$@" >"$log" 2>&1 </dev/null; then
		tail -n 40 "$log" >&2
		die "failed: $* (log: $log)"
	fi
}

# ---------------------------------------------------------------- packages --

# need PROGRAM-OR-FILE=PACKAGE...: install the packages whose program is missing.
need()
{
	local pair probe missing=()
	for pair; do
		probe=${pair%%=*}
		case $probe in
		/*) [ -e "$probe" ] && continue ;;
		*.h) [ -e "/usr/include/$probe" ] && continue ;;
		*) PATH=$PATH:/usr/sbin:/sbin command -v "$probe" >/dev/null && continue ;;
		esac
		missing+=("${pair#*=}")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		die "please install: ${missing[*]} (only Debian's apt is known here)"
	[ "$(id -u)" = 0 ] || die "please install as root: apt-get install ${missing[*]}"
	say "installing ${missing[*]}"
	lock_cache
	host_install "${missing[@]}" ||
		die "could not install: ${missing[*]} (log: $cache/log/host-install)"
	unlock_cache
}

host_install()
{
	local get=(env -u APT_CONFIG DEBIAN_FRONTEND=noninteractive apt-get -q -y
		-o DPkg::Lock::Timeout=600 -o APT::Install-Recommends=false)
	mkdir -p "$cache/log"
	# The lists may be missing or so old that the files are gone: then once more with new lists.
	"${get[@]}" install "$@" >"$cache/log/host-install" 2>&1 </dev/null && return
	logged "$cache/log/host-update" "${get[@]}" update
	"${get[@]}" install "$@" >"$cache/log/host-install" 2>&1 </dev/null && return
	tail -n 30 "$cache/log/host-install" >&2
	return 1
}

# The host's own mirror for a suite (main archive or security), so that no other is contacted.
host_mirror()
{
	local what=$1 codename uri
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	case $what in
	main) uri=${DMLOOP_MIRROR:-} ;;
	security) uri=${DMLOOP_SECURITY_MIRROR:-} codename=$codename-security ;;
	esac
	if [ -z "$uri" ]; then
		# shellcheck disable=SC2016 # the dollars are apt's
		uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
			awk -v c="$codename" '$1 == c && $2 ~ /debian/ { print $2; exit }')
	fi
	[ -n "$uri" ] ||
		die "no $what mirror for $codename in this host's apt sources: set DMLOOP_MIRROR and DMLOOP_SECURITY_MIRROR"
	printf '%s\n' "${uri%/}"
}

# An apt configuration of our own: the host's apt never sees the other suites.
private_apt()
{
	local dir=$cache/apt main security suite key
	export APT_CONFIG=$dir/apt.conf
	[ ! -e "$dir/ready" ] || return 0
	unset APT_CONFIG
	main=$(host_mirror main)
	security=$(host_mirror security)
	key=/usr/share/keyrings/debian-archive-keyring.gpg
	[ -e "$key" ] || die "missing $key (package debian-archive-keyring)"
	mkdir -p "$dir"/{lists,archives,etc}/partial "$dir/etc"
	: >"$dir/status"
	cat >"$dir/apt.conf" <<-EOF
	Dir::Etc::sourcelist "$dir/sources.list";
	Dir::Etc::sourceparts "-";
	Dir::Etc::preferences "-";
	Dir::Etc::preferencesparts "-";
	Dir::State "$dir";
	Dir::State::lists "$dir/lists";
	Dir::State::status "$dir/status";
	Dir::Cache "$dir";
	Dir::Cache::archives "$dir/archives";
	APT::Architecture "amd64";
	APT::Architectures { "amd64"; };
	APT::Sandbox::User "root";
	APT::Default-Release "";
	Acquire::Languages "none";
	Acquire::Retries "3";
	EOF
	for suite in "$guest_suite" "$guest_suite-backports" forky sid; do
		echo "deb [signed-by=$key] $main $suite main"
	done >"$dir/sources.list"
	echo "deb [signed-by=$key] $security $guest_suite-security main" >>"$dir/sources.list"
	export APT_CONFIG=$dir/apt.conf
	say "reading the package lists of $(awk '{ printf "%s%s", sep, $4; sep = ", " }' "$dir/sources.list")"
	logged "$cache/log/apt-update" apt-get -q update
	: >"$dir/ready"
}

# bootstrap SUITE FOLDER VARIANT PACKAGES [OPTIONS...]: a Debian of its own, from the host's mirror.
bootstrap()
{
	local suite=$1 dir=$2 variant=$3 packages=$4 sources opts=() opt
	shift 4
	# The suite itself, and for the guest's stable one its security updates.
	sources=$(grep -E " ($suite|$suite-security) main\$" "$cache/apt/sources.list")
	# mmdebstrap does not read the host's apt configuration; this part matters to reach the mirror.
	while read -r opt; do
		opts+=(--aptopt="$opt")
	done < <(apt-config dump | grep -E '^Acquire::(.*Proxy|Check-Valid-Until) ' || true)
	logged "$cache/log/bootstrap-$suite" env -u APT_CONFIG mmdebstrap --mode=root \
		--variant="$variant" --include="$packages" --architectures=amd64 \
		--aptopt='APT::Install-Recommends "false"' \
		--aptopt='Acquire::Languages "none"' \
		--aptopt='Acquire::Retries "3"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		"${opts[@]}" "$@" "$suite" "$dir" "$sources"
}
