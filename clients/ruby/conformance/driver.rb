# frozen_string_literal: true

# The driver of the Ruby client for the conformance kit. clients/conformance/README.md describes its protocol.

require_relative "../lib/realizehit"

$stdout.sync = true
Thread.report_on_exception = true

# Answers the kit's commands with what the clients say.
class Driver
  CLIENT_OPTIONS = %w[backoff_base backoff_cap heartbeat queue open_timeout response_timeout max_message token].freeze
  API_OPTIONS = %w[key timeout backoff_base].freeze
  COMMANDS = %w[open subscribe next unsubscribe stats close api publish publish_many history pattern reset].freeze

  def initialize
    @lock = Mutex.new
    forget
  end

  def run
    write("hello", protocol: 1, language: "ruby", version: Realizehit::VERSION)
    while (line = $stdin.gets)
      Thread.new(JSON.parse(line)) { |command| answer(command) }
    end
    reset({})
  end

  private

  def write(event, fields)
    line = JSON.generate({ on: event, **fields.compact })
    @lock.synchronize { $stdout.write("#{line}\n") }
  end

  def answer(command)
    name = command["do"]
    raise Realizehit::Rejected.new("there is no command #{name}", code: "unsupported") unless COMMANDS.include?(name)

    write("done", { n: command["n"], **(send(name, command) || {}) })
  rescue StandardError => e
    write("failed", n: command["n"], error: error(e))
  end

  def error(problem)
    name = problem.class.name.split("::").last
    return { name:, code: "", text: problem.message } unless problem.is_a?(Realizehit::Error)

    { name:, code: problem.code, status: problem.status, text: problem.message }.compact
  end

  def options(command, names)
    (command["options"] || {}).slice(*names).transform_keys(&:to_sym)
  end

  def open(command)
    name = command["client"]
    tokens = command.dig("options", "tokens")
    @clients[name] = Realizehit::Client.new(
      command["url"],
      **options(command, CLIENT_OPTIONS), **(tokens ? { token: token_function(name, tokens) } : {}),
      on_connected: -> { write("connected", client: name) },
      on_disconnected: ->(lost) { write("disconnected", client: name, code: lost.status) },
      on_expiring: ->(seconds) { write("expiring", client: name, seconds:) },
      on_note: ->(note) { write("note", client: name, note:) },
      on_error: ->(problem) { write("error", client: name, error: error(problem)) },
      on_ended: ->(problem) { write("ended", client: name, error: error(problem)) }
    )
    nil
  end

  def token_function(name, tokens)
    left = tokens.dup
    lambda do
      write("token_asked", client: name)
      token = left.size > 1 ? left.shift : left.first
      token || raise("the case gives no token")
    end
  end

  def subscribe(command)
    name = command["sub"]
    subscription = @clients.fetch(command["client"]).subscribe(
      command["pattern"],
      since: command["since"], last: command["last"], offsets: command["offsets"] == true, every: command["every"],
      on_state: ->(state) { write("state", sub: name, state:) },
      on_gap: lambda { |gap|
                write("gap", sub: name, **(gap.dropped.positive? ? { dropped: gap.dropped } : { seconds: gap.seconds }))
              },
      on_recovered: -> { write("recovered", sub: name) },
      on_error: ->(problem) { write("error", sub: name, error: error(problem)) },
      &callback(command)
    )
    @subscriptions[name] = subscription
    { id: subscription.id }
  end

  def callback(command)
    return if command["read"] == "iterate"

    lambda do |message|
      tell(command, message)
      raise "a callback that fails, as the case says" if command["read"] == "raise"
    end
  end

  def tell(command, message)
    decoded = command["decode"] ? { value: message.payload } : {}
    line = { sub: command["sub"], text: message.text, pattern: message.pattern, position: message.position }
    write("payload", { **line, **decoded })
  rescue Realizehit::Error => e
    write("error", sub: command["sub"], error: error(e))
  end

  def next(command)
    subscription = @subscriptions.fetch(command["sub"])
    count = 0
    while count < (command["count"] || 1)
      message = subscription.next(timeout: command["timeout"] || 5)
      break if message.nil?

      tell(command, message)
      count += 1
    end
    { count:, ended: false }
  rescue StopIteration
    { count:, ended: true }
  end

  def unsubscribe(command)
    @subscriptions.fetch(command["sub"]).unsubscribe
    nil
  end

  def stats(command)
    subscription = @subscriptions.fetch(command["sub"])
    { state: subscription.state, dropped: subscription.dropped }
  end

  def close(command)
    @clients.fetch(command["client"]).close
    nil
  end

  def api(command)
    @apis[command["api"]] = Realizehit::API.new(command["url"], **options(command, API_OPTIONS))
    nil
  end

  def publish(command)
    fields = message(command)
    payload = fields.key?(:payload) ? [fields[:payload]] : []
    result(@apis.fetch(command["api"]).publish(fields[:pattern], *payload, json: fields[:json], key: fields[:key]))
  end

  def publish_many(command)
    outcomes = @apis.fetch(command["api"]).publish_many(command["messages"].map { |each| message(each) })
    { outcomes: outcomes.map { |each| each.published? ? result(each.result) : { error: error(each.error) } } }
  end

  def message(fields)
    payload = fields.key?("text") ? { json: fields["text"] } : { payload: fields["payload"] }
    { pattern: fields["pattern"], key: fields["key"], **payload }
  end

  def result(result)
    { id: result.id, nodes: result.nodes, at: result.at, duplicate: result.duplicate || nil }.compact
  end

  def history(command)
    found = @apis.fetch(command["api"]).history(command["pattern"], since: command["since"], last: command["last"])
    messages = found.map do |each|
      { text: JSON.generate(each.payload), position: each.position, pattern: each.pattern }.compact
    end
    { messages:, at: found.at, first: found.first_offset, recovered: found.recovered, more: found.more }.compact
  end

  def pattern(command)
    pattern = Realizehit::Pattern.new(command["pattern"])
    { text: pattern.text, id: pattern.id }
  end

  def reset(_command)
    clients = @clients
    apis = @apis
    forget
    [*clients.values, *apis.values].each(&:close)
    nil
  end

  def forget
    @clients = {}
    @subscriptions = {}
    @apis = {}
  end
end

Driver.new.run
