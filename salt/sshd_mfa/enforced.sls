{%- from tpldir ~ '/map.jinja' import mfa with context %}
include:
  - .modules
  - .package
  - .users

# Not `require` on the users: one bad entry must not keep the policy from everybody else.
sshd_mfa policy:
  sshd_mfa.enforced:
    - pillar: sshd_mfa
    - service: {{ mfa.service }}
    - pam_service: {{ mfa.pam_service }}
    - drop_in: {{ mfa.paths.drop_in }}
    - banner: {{ mfa.paths.banner }}
    - keys_dir: {{ mfa.paths.keys_dir }}
    - require:
      - pkg: sshd_mfa packages
