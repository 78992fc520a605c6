# fish completion for terok-shield
complete -c terok-shield -f
complete -c terok-shield -n __fish_use_subcommand -a 'allow block check-environment completions deny down logs prepare preview profiles quarantine resolve rules run setup simple-clearance status up watch'
complete -c terok-shield -n __fish_use_subcommand -l state-dir -r
complete -c terok-shield -n __fish_use_subcommand -l version
complete -c terok-shield -n '__fish_seen_subcommand_from allow deny up down quarantine block status rules resolve watch simple-clearance' -a '(terok-shield completions containers 2>/dev/null)'
complete -c terok-shield -n '__fish_seen_subcommand_from prepare run' -l profiles -x -a '(terok-shield profiles 2>/dev/null)'
complete -c terok-shield -n '__fish_seen_subcommand_from setup' -a '--root --user --uninstall'
complete -c terok-shield -n '__fish_seen_subcommand_from completions' -a 'bash zsh fish'
complete -c terok-shield -n '__fish_seen_subcommand_from logs' -l container -x -a '(terok-shield completions containers 2>/dev/null)'
