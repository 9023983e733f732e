# frozen_string_literal: true

require "logger"
require "uri"

module Realizehit
  # The settings of a {Client}; {Client#initialize} explains them.
  #
  # @api private
  Options = Struct.new(
    :token, :headers, :open_timeout, :response_timeout, :heartbeat, :backoff_base, :backoff_cap, :queue, :max_message,
    :ca_file, :logger, :on_connected, :on_disconnected, :on_expiring, :on_note, :on_error, :on_ended,
    keyword_init: true
  ) do
    def self.from(given)
      unknown = given.keys - members
      raise ArgumentError, "unknown option: #{unknown.join(', ')}" unless unknown.empty?

      new(**self::DEFAULTS, **given.compact).tap(&:check).freeze
    end

    def check
      %i[open_timeout response_timeout heartbeat backoff_base backoff_cap queue max_message].each do |name|
        value = self[name]
        raise ArgumentError, "#{name} is not a positive number" unless value.is_a?(Numeric) && value.positive?
      end
      members.grep(/\Aon_/).each do |name|
        raise ArgumentError, "#{name} cannot be called" unless self[name].nil? || self[name].respond_to?(:call)
      end
      return if token.nil? || token.is_a?(String) || token.respond_to?(:call)

      raise ArgumentError, "token is neither a String nor a function"
    end

    # Whether the token can be had anew.
    def renewable?
      token.respond_to?(:call)
    end

    # @return [String, nil] the token for a connection
    # @raise [TokenFailed] if the token function raised, or returned what cannot be a token
    def current_token
      value = renewable? ? token.call : token
      return value if value.nil? || (value.is_a?(String) && value.match?(/\A[!-~]+\z/))

      raise TokenFailed, "the token is not a text of visible ASCII characters"
    rescue TokenFailed
      raise
    rescue StandardError, ScriptError => e
      raise TokenFailed, "there is no token: #{e.message}"
    end
  end
  Options::DEFAULTS = {
    headers: {}.freeze, open_timeout: 10, response_timeout: 10, heartbeat: 60, backoff_base: 0.25, backoff_cap: 20,
    queue: 1024, max_message: 16 << 20
  }.freeze
  private_constant :Options
end
