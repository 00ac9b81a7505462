{%- from tpldir ~ '/map.jinja' import mfa with context %}
{#- Packages and accounts stay: a host's own PAM stack may need the one, people the other. -#}
include:
  - .modules

sshd_mfa is absent:
  sshd_mfa.absent:
    - service: {{ mfa.service }}
    - pam_service: {{ mfa.pam_service }}
    - drop_in: {{ mfa.paths.drop_in }}
    - banner: {{ mfa.paths.banner }}
    - keys_dir: {{ mfa.paths.keys_dir }}
