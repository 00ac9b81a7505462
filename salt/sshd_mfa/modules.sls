{#- Custom modules are not synchronized by `state.apply SLS`: do so when they are missing or
    of another version, and have them loaded before the first of our states runs. -#}
{%- set needed = '0.1.0' %}
{%- set found = salt['sshd_mfa.version']() if 'sshd_mfa.version' in salt else none %}
{%- if found != needed %}
{%-   do salt['saltutil.sync_all'](refresh=true) %}
{%- endif %}
sshd_mfa modules are of version {{ needed }}:
  test.nop:
    - force_reload_modules: {{ found != needed }}
    - order: first
