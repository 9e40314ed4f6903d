package main

import (
	"fmt"
	"strings"
)

// words is the names of all flags that choose chooses, with sep between them.
func (h help) words(sep string, choose func(f flagHelp) bool) string {
	var list []string
	for _, f := range h.flags {
		if choose(f) {
			list = append(list, f.names...)
		}
	}
	return strings.Join(list, sep)
}

// filled is a script with the names of flags where it says <ARG>, for those whose
// value is called so, <valued>, for those with any, and <all>.
func (h help) filled(script, sep string) string {
	places := []string{
		"<all>", h.words(" ", func(flagHelp) bool { return true }),
		"<valued>", h.words(sep, func(f flagHelp) bool { return f.arg != "" }),
	}
	for _, arg := range args() {
		places = append(places, "<"+arg+">", h.words(sep, func(f flagHelp) bool { return f.arg == arg }))
	}
	return strings.NewReplacer(places...).Replace(script)
}

// args is what the values of flags are called, each of which the scripts complete:
// an address can be a unix socket's file, a PATH is a file or a command like a
// GDB, and what GDB takes for a command no shell knows.
func args() []string { return []string{"PID", "FILE", "ADDR", "DIR", "PATH", "WHEN", "CMD"} }

// when is what WHEN can be.
const when = "auto always never"

// Of processes each offers those whose program the user may see, since no others
// can be attached to (proc(5), ptrace(2)).

// bash is the completion for bash(1), with and without bash-completion.
func bash(h help) string {
	return h.filled(`# Completion of dbgsh for bash, made of docs/usage.md.

_dbgsh_processes() {
	local dir
	for dir in /proc/[0-9]*; do
		[[ -e $dir/exe ]] && echo "${dir#/proc/}"
	done
}

_dbgsh() {
	local cur=${COMP_WORDS[COMP_CWORD]} word flag= place=flags args= i found
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ $flag ]]; then # its value; or the = before it, which is a word of its own
			[[ $word == = && ${COMP_WORDS[i - 1]} == -* ]] || flag=
		elif [[ $place != flags ]]; then
			place=rest
		else
			[[ $word == --?* ]] && word=${word#-}
			case $word in
			<valued>) flag=$word ;;
			-args) args=yes ;;
			--) place=program ;;
			-?*) ;;
			*) place=rest ;;
			esac
		fi
	done
	[[ $flag && $cur == = ]] && cur=

	case $flag in
	"") ;;
	<PID>)
		mapfile -t COMPREPLY < <(compgen -W "$(_dbgsh_processes)" -- "$cur")
		return
		;;
	<FILE>|<ADDR>)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	<DIR>)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	<PATH>)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -c -- "$cur" | grep -E 'gdb(-multiarch)?$' | sort -u; compgen -f -- "$cur")
		return
		;;
	<WHEN>)
		mapfile -t COMPREPLY < <(compgen -W "`+when+`" -- "$cur")
		return
		;;
	*) return ;;
	esac

	if [[ $place == flags && $cur == -* ]]; then
		word=" <all>"
		[[ $cur == --* ]] && word=${word// -/ --}
		mapfile -t COMPREPLY < <(compgen -W "$word" -- "$cur")
		return
	fi
	compopt -o filenames 2>/dev/null
	mapfile -t found < <(compgen -f -- "$cur")
	if [[ $place != rest ]]; then # programs, where there are any
		for word in "${found[@]}"; do
			[[ -x ${word/#\~\//$HOME/} ]] && COMPREPLY+=("$word")
		done
		[[ ${#COMPREPLY[@]} -gt 0 ]] && return
	elif [[ ! $args ]]; then # a core file, or a process
		mapfile -t COMPREPLY < <(compgen -W "$(_dbgsh_processes)" -- "$cur")
	fi
	COMPREPLY+=("${found[@]}")
}

complete -F _dbgsh dbgsh
`, "|")
}

// zsh is the completion for zsh(1), whose functions are in zshcompsys(1).
func zsh(h help) string {
	values := map[string]string{
		"PID": "process:_dbgsh_processes", "FILE": "file:_files", "ADDR": "address:_files", "DIR": "folder:_files -/",
		"PATH": "GDB:_dbgsh_gdbs",
		"WHEN": "when:(" + when + ")", "CMD": "command: ",
	}
	quote := strings.NewReplacer("'", `'\''`, `[`, `\[`, `]`, `\]`, `:`, `\:`)
	var flags strings.Builder
	for _, f := range h.flags {
		others, value, use := "("+strings.Join(f.names, " ")+")", "", quote.Replace(f.use)
		for _, n := range f.names {
			if f.arg != "" { // it may be given again, and = stand before the value
				others, value, n = "*", ":"+values[f.arg], n+"="
			}
			fmt.Fprintf(&flags, "\t'%s%s[%s]%s' \\\n", others, n, use, value)
		}
	}
	return `#compdef dbgsh
# Completion of dbgsh for zsh, made of docs/usage.md.

_dbgsh_processes() {
	local -a found
	local dir name
	for dir in /proc/<->(N); do
		[[ -e $dir/exe ]] && read -r name <$dir/comm && found+=("${dir:t}:$name")
	done
	_describe process found
}

_dbgsh_gdbs() {
	_alternative "commands:command:(${(k)commands[(I)*gdb(|-multiarch)]})" "files:file:_files"
}

_dbgsh_rest() {
	if (( $+opt_args[-args] )); then
		_files
	else
		_alternative "files:core file:_files" "processes:process:_dbgsh_processes"
	fi
}

local -A opt_args
_arguments -S \
` + flags.String() + `	'(-)1:program:_files -g "*(-*)"' \
	'*:core file, process or argument:_dbgsh_rest'
`
}

// fish is the completion for fish(1).
func fish(h help) string {
	values := map[string]string{
		"PID": "-x -a '(__dbgsh_processes)'", "FILE": "-r -F", "ADDR": "-r -F", "DIR": "-x -a '(__fish_complete_directories)'",
		"PATH": "-r -F -a '(__dbgsh_gdbs)'", "WHEN": "-x -a '" + when + "'", "CMD": "-x",
	}
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`)
	var flags strings.Builder
	for _, f := range h.flags {
		fmt.Fprint(&flags, "complete -c dbgsh -n 'test (__dbgsh_place) = flags'")
		for _, n := range f.names {
			fmt.Fprintf(&flags, " -o %s", n[1:])
		}
		if f.arg != "" {
			flags.WriteString(" " + values[f.arg])
		}
		fmt.Fprintf(&flags, " -d '%s'\n", quote.Replace(f.use))
	}
	return h.filled(`# Completion of dbgsh for fish, made of docs/usage.md.

# What comes next: flags, or the program; program; core, or a process; args.
function __dbgsh_place
    set -l place flags
    set -l rest core
    set -l value no
    set -l words (commandline -opc)
    for word in $words[2..]
        if test $value = yes
            set value no
            continue
        end
        switch $place
            case flags
                switch (string replace -r '^--(?=.)' - -- $word)
                    case <valued>
                        set value yes
                    case -args
                        set rest args
                    case --
                        set place program
                    case '-?*'
                    case '*'
                        set place $rest
                end
            case program
                set place $rest
        end
    end
    echo $place
end

# The programs that may be meant, or all files where there are none.
function __dbgsh_programs
    set -l word (commandline -ct)
    set -l paths (complete -C "'' $word" | string replace -r '\t.*' '')
    set -l programs
    for path in $paths
        test -x (string replace -r '^~/' $HOME/ -- $path); and set -a programs $path
    end
    set -q programs[1]; or set programs $paths
    string join \n -- $programs
end

function __dbgsh_processes
    for dir in /proc/(string match -r '^[0-9]+$' (path basename /proc/*))
        test -e $dir/exe; and read -l name <$dir/comm; and printf '%s\t%s\n' (string replace /proc/ '' $dir) $name
    end
end

function __dbgsh_gdbs
    complete -C '' | string replace -r '\t.*' '' | string match -r '^.*gdb(?:-multiarch)?$'
end

complete -c dbgsh -n 'contains (__dbgsh_place) flags program' -f -a '(__dbgsh_programs)'
complete -c dbgsh -n 'test (__dbgsh_place) = core' -a '(__dbgsh_processes)'
`, " ") + flags.String()
}
