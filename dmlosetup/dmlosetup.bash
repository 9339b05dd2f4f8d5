# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# bash completion for dmlosetup(8)

_dmlosetup_columns()
{
	local columns="NAME AUTOCLEAR BACK-FILE BACK-INO BACK-MAJ:MIN BACK-MAJ
		BACK-MIN MAJ:MIN MAJ MIN OFFSET RO SIZELIMIT DIO LOG-SEC PARTSCAN
		SIZE MODE EXTENTS FSTYPE PIN MAPPED HOLE UNWRITTEN SHARED OPTIONS"
	local word=$1 before='' part

	# the last of a list; COMP_WORDBREAKS may have cut at a colon
	if [[ $word == *,* ]]; then
		before=${word%,*},
		word=${word##*,}
	elif [[ $word == +* ]]; then
		before=+
		word=${word#+}
	fi
	COMPREPLY=()
	while IFS= read -r part; do
		COMPREPLY+=("$before$part")
	done < <(compgen -W "$columns" -- "${word^^}")
	compopt -o nospace
}

_dmlosetup_devices()
{
	local names

	names=$(dmlosetup -l -n --raw -O NAME 2>/dev/null)
	# both loop0 and /dev/mapper/loop0
	mapfile -t COMPREPLY < <(compgen -W "$names ${names//\/dev\/mapper\//}" -- "$1")
}

_dmlosetup_files()
{
	compopt -o filenames
	mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

_dmlosetup()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local options="--all --associated --chunk --deferred --defrag --detach --detach-all
		--find --help --json --list --mapped --no-discard --noheadings
		--nooverlap --noudevsync --offset --output --output-all --prepare
		--raw --read-only --refresh --replace --set-capacity --show --shrink --size
		--sizelimit --snapshot --unshare --verbose --verify --version"

	COMPREPLY=()
	case $prev in
	-O | --output)
		_dmlosetup_columns "$cur"
		return
		;;
	-o | --offset | --sizelimit | --size | --chunk)
		return
		;;
	-j | --associated | --prepare | -f | --find | --show)
		if [[ $cur != -* ]]; then
			_dmlosetup_files "$cur"
			return
		fi
		;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
		return
	fi
	case " ${COMP_WORDS[*]:1:COMP_CWORD-1} " in
	*" -d "* | *" --detach "* | *" --refresh "* | *" --verify "* | *" -c "* | *" --set-capacity "* | *" --defrag "*)
		_dmlosetup_devices "$cur"
		;;
	*" -f "* | *" --find "* | *" --prepare "*)
		_dmlosetup_files "$cur"
		;;
	*)
		_dmlosetup_devices "$cur"
		[ ${#COMPREPLY[@]} -gt 0 ] || _dmlosetup_files "$cur"
		;;
	esac
}

complete -F _dmlosetup dmlosetup
