include:
  - .modules
  - .package
  - .users
  - .enforced
