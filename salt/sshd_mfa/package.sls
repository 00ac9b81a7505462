{%- from tpldir ~ '/map.jinja' import mfa with context %}
include:
  - .modules
{%- if mfa.repository_packages is defined %}

sshd_mfa repository:
  pkg.installed:
    - pkgs: {{ mfa.repository_packages | json }}
    - require_in:
      - pkg: sshd_mfa packages
{%- endif %}

sshd_mfa packages:
  pkg.installed:
    - pkgs: {{ mfa.packages | json }}
