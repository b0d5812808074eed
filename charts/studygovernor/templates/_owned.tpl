{{- /* Variables that a value of the chart stands for, as YAML: name: value. `settings` and extraEnv cannot set them, so that there is one place for each. */ -}}
{{- define "sg.owned" -}}
STUDYGOV_HOST: studygovernor.host
STUDYGOV_PORT: studygovernor.port
STUDYGOV_INSTANCE_NAME: studygovernor.instanceName
STUDYGOV_PROJECT_NAME: studygovernor.projectName
STUDYGOV_EMAIL_PREFIX: studygovernor.emailPrefix
STUDYGOV_EMAIL_FROM: studygovernor.emailFrom
MAIL_DEFAULT_SENDER: studygovernor.emailFrom
SECURITY_EMAIL_SENDER: studygovernor.emailFrom
STUDYGOV_EMAIL_TO: studygovernor.emailTo
STUDYGOV_CALLBACK_METHOD: studygovernor.callbacks.method
STUDYGOV_EXTERNAL_HOSTNAME: studygovernor.externalHostname
STUDYGOV_EXTERNAL_PROTO: studygovernor.externalProtocol
STUDYGOV_EXTERNAL_PORT: studygovernor.externalPort
STUDYGOV_TRUSTED_PROXIES: studygovernor.trustedProxies
SCRIPT_NAME: ingress.pathPrefix
APPLICATION_ROOT: ingress.pathPrefix
GUNICORN_WORKER_CLASS: studygovernor.gunicorn.workerClass
GUNICORN_WORKER_CONNECTIONS: studygovernor.gunicorn.workerConnections
GUNICORN_TIMEOUT: studygovernor.gunicorn.timeout
DB_SCHEMA: studygovernor.db.schema
DB_NAME: studygovernor.db.name
DB_USER: studygovernor.db.user
DB_HOST: studygovernor.db.host
DB_PORT: studygovernor.db.port
DB_PASSWORD: postgresql.password or externalDatabase.password
SQLALCHEMY_DATABASE_URI: externalDatabase.uri
DATABASE_URL: externalDatabase.uri
DB_SSL_MODE: externalDatabase.tls.mode
DB_SSL_CA: externalDatabase.tls.caSecret
STUDYGOV_ADMIN_USERNAME: studygovernor.admin.username
STUDYGOV_ADMIN_EMAIL: studygovernor.admin.email
STUDYGOV_ADMIN_PASSWORD: studygovernor.admin.password
STUDYGOV_ADMIN_FORCE_UPDATE: studygovernor.admin.force_update
PROJECT_REPO: studygovernor.project.git.url
PROJECT_PASSWORD: studygovernor.project.git.password
PROJECT_BRANCH: studygovernor.project.git.branch
PROJECT_RELATIVE_PATH: studygovernor.project.git.relativePath
STUDYGOV_PROJECT_SYNC: studygovernor.project.git.sync
GIT_SSH_COMMAND: studygovernor.project.git.ssh
STUDYGOV_XNAT_PROJECT: studygovernor.fastr.xnatProject
STUDYGOV_PROJECT_HOME: studygovernor.fastr.projectHome
HOME: studygovernor.fastr.projectHome
STUDYGOV_DATA_DIR: studygovernor.fastr.projectHome
STUDYGOV_PROJECT_SCRATCH: studygovernor.fastr.projectScratch
SECURITY_REGISTERABLE: studygovernor.security.registerable
SECURITY_CHANGEABLE: studygovernor.security.changeable
SECURITY_RECOVERABLE: studygovernor.security.recoverable
SECURITY_CONFIRMABLE: studygovernor.security.confirmable
SECRET_KEY: secrets.secretKey
SECURITY_PASSWORD_SALT: secrets.passwordSalt
STUDYGOV_MIGRATE: migrations.mode
STUDYGOV_BROKER: externalBroker.url
STUDYGOV_CELERY_BROKER: externalBroker.url
STUDYGOV_BROKER_HOST: externalBroker.host
STUDYGOV_BROKER_PORT: externalBroker.port
STUDYGOV_BROKER_VHOST: externalBroker.vhost
STUDYGOV_BROKER_TLS: externalBroker.tls
STUDYGOV_BROKER_USER: externalBroker.user
STUDYGOV_BROKER_PASSWORD: rabbitmq.password or externalBroker.password
MAIL_SERVER: mail.server
MAIL_PORT: mail.port
MAIL_USE_TLS: mail.useTLS
MAIL_USE_SSL: mail.useSSL
MAIL_USERNAME: mail.username
MAIL_PASSWORD: mail.password
MAIL_SUPPRESS_SEND: mail.suppressSend
STUDYGOV_SERVER: service.port and ingress.pathPrefix
STUDYGOV_WORKER_LISTEN: no value, it is always :9090
STUDYGOV_METRICS_LISTEN: no value, it is always :9090
STUDYGOV_QUEUES: workers.<group>.queues
STUDYGOV_WORKER_GRACE: workers.<group>.grace
{{- end -}}
