/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl completion: a script for bash, made from the verbs' own usage lines, so that nothing is listed
 * twice. Names of streams and models are asked of the daemon when the key is pressed, and left out when it is
 * not there. */
#include "cli/vlmctl.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* What may follow in the shell: words of verb $1 are in _vlmctl_words, names in _vlmctl_names. */
static const char script[] = "_vlmctl_offers() {\n"
                             "    vlmctl \"$1\" 2>/dev/null | grep '^[a-z]' | cut -d' ' -f1\n"
                             "}\n"
                             "_vlmctl() {\n"
                             "    local cur=${COMP_WORDS[COMP_CWORD]} verb= i\n"
                             "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                             "        case ${COMP_WORDS[i]} in\n"
                             "        --bus) ((i++)) ;;\n"
                             "        -*) ;;\n"
                             "        *) verb=${COMP_WORDS[i]}; break ;;\n"
                             "        esac\n"
                             "    done\n"
                             "    local words\n"
                             "    case ${COMP_WORDS[COMP_CWORD - 1]} in\n"
                             "    --reducer) words=$(_vlmctl_offers reducers) ;;\n"
                             "    --policy) words=$(_vlmctl_offers policies) ;;\n"
                             "    *)\n"
                             "        words=$(_vlmctl_words \"$verb\")\n"
                             "        [[ $cur == -* ]] || words+=\" $(_vlmctl_names \"$verb\")\"\n"
                             "    esac\n"
                             "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                             "}\n"
                             "complete -o default -F _vlmctl vlmctl\n";

static bool word_char(char c)
{
    return islower((unsigned char)c) || isdigit((unsigned char)c) || c == '-';
}

static void print_word(const char *s, size_t n)
{
    (void)printf(" %.*s", (int)n, s);
}

/* "--every" wherever it stands in a usage text. */
static void print_options(const char *usage)
{
    for (const char *s = usage; (s = strstr(s, "--"));) {
        size_t n = 2;
        while (word_char(s[n]))
            n++;
        print_word(s, n);
        s += n;
    }
}

/* "add" of a line "  vlmctl stream add NAME". */
static void print_subverbs(const struct vl_verb *v)
{
    char head[64];
    int n = snprintf(head, sizeof(head), "vlmctl %s ", v->name);
    for (const char *s = v->usage; n > 0 && (s = strstr(s, head));) {
        s += n;
        size_t len = 0;
        while (word_char(s[len]))
            len++;
        if (islower((unsigned char)*s) && (isspace((unsigned char)s[len])))
            print_word(s, len);
    }
}

static void print_words(void)
{
    (void)fputs(
        "_vlmctl_words() {\n    case $1 in\n    '') echo '--user --system --bus --json --version --help",
        stdout);
    for (const struct vl_verb *const *v = vl_verbs; *v; v++)
        print_word((*v)->name, strlen((*v)->name));
    (void)fputs("' ;;\n", stdout);
    for (const struct vl_verb *const *v = vl_verbs; *v; v++) {
        (void)printf("    %s) echo '--json", (*v)->name);
        print_subverbs(*v);
        print_options((*v)->usage);
        (void)fputs("' ;;\n", stdout);
    }
    (void)fputs("    esac\n}\n", stdout);
}

static void print_names(void)
{
    (void)fputs("_vlmctl_names() {\n    case $1 in\n"
                "    model) vlmctl model list 2>/dev/null | cut -c3- | cut -d' ' -f1 ;;\n    ''",
                stdout);
    for (const struct vl_verb *const *v = vl_verbs; *v; v++)
        if (!strstr((*v)->usage, " NAME"))
            (void)printf(" | %s", (*v)->name);
    (void)fputs(") ;;\n    *) vlmctl stream list 2>/dev/null | cut -d' ' -f1 ;;\n    esac\n}\n", stdout);
}

static int completion(struct vl_ctl *c, int argc, char **argv)
{
    (void)c;
    if (argc != 2 || strcmp(argv[1], "bash") != 0)
        return vl_ctl_usage(&vl_verb_completion, "say for which shell: bash");
    (void)puts("# source <(vlmctl completion bash)");
    print_words();
    print_names();
    (void)fputs(script, stdout);
    return fflush(stdout) < 0 ? VL_EXIT_FAILED : VL_EXIT_OK;
}

const struct vl_verb vl_verb_completion = {
    .name = "completion",
    .usage = "  vlmctl completion bash\n",
    .help = "Prints what makes the shell complete verbs, options and names: source <(vlmctl completion bash)",
    .run = completion,
};
