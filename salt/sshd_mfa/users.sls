{%- from tpldir ~ '/map.jinja' import mfa with context %}
include:
  - .modules
  - .package

sshd_mfa users:
  ssh_users.managed:
    - pillar: sshd_mfa
    - keys_dir: {{ mfa.paths.keys_dir }}
    - require:
      - pkg: sshd_mfa packages
