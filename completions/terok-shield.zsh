#compdef terok-shield
_terok_shield() {
    local -a verbs containers
    if (( CURRENT == 2 )); then
        verbs=(allow block check-environment completions deny down logs prepare preview profiles quarantine resolve rules run setup simple-clearance status up watch)
        compadd -a verbs
        compadd -- --state-dir --version --help
        return
    fi
    case ${words[CURRENT-1]} in
        --profiles) compadd -- ${(f)"$(terok-shield profiles 2>/dev/null)"}; return ;;
    esac
    case ${words[2]} in
        setup) compadd -- --root --user --uninstall --help ;;
        completions) compadd -- bash zsh fish ;;
        allow|deny|up|down|quarantine|block|status|rules|resolve|watch|simple-clearance|logs)
            containers=(${(f)"$(terok-shield completions containers 2>/dev/null)"})
            compadd -a containers ;;
        prepare|run) compadd -- --profiles --help ;;
        preview) compadd -- --down --all --help ;;
    esac
}
compdef _terok_shield terok-shield
