# bash completion for terok-shield
_terok_shield() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in -*) ;; *) verb=$word; break ;; esac
    done
    case $prev in
        --profiles) COMPREPLY=($(compgen -W "$(terok-shield profiles 2>/dev/null)" -- "$cur")); return ;;
        --container) COMPREPLY=($(compgen -W "$(terok-shield completions containers 2>/dev/null)" -- "$cur")); return ;;
        --state-dir) COMPREPLY=($(compgen -d -- "$cur")); return ;;
    esac
    case $verb in
        "") COMPREPLY=($(compgen -W "allow block check-environment completions deny down logs prepare preview profiles quarantine resolve rules run setup simple-clearance status up watch --state-dir --version --help" -- "$cur")) ;;
        setup) COMPREPLY=($(compgen -W "--root --user --uninstall --help" -- "$cur")) ;;
        completions) COMPREPLY=($(compgen -W "bash zsh fish" -- "$cur")) ;;
        allow) COMPREPLY=($(compgen -W "$(terok-shield completions containers 2>/dev/null) --for --json --help" -- "$cur")) ;;
        down) COMPREPLY=($(compgen -W "$(terok-shield completions containers 2>/dev/null) --all --container-id --help" -- "$cur")) ;;
        deny|up|quarantine|block|status|rules|resolve|watch|simple-clearance)
            COMPREPLY=($(compgen -W "$(terok-shield completions containers 2>/dev/null) --help" -- "$cur")) ;;
        prepare|run) COMPREPLY=($(compgen -W "--profiles --help" -- "$cur")) ;;
        preview) COMPREPLY=($(compgen -W "--down --all --help" -- "$cur")) ;;
        logs) COMPREPLY=($(compgen -W "--container -n --help" -- "$cur")) ;;
    esac
}
complete -F _terok_shield terok-shield
