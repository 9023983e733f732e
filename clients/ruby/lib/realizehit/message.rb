# frozen_string_literal: true

require_relative "errors"
require_relative "json_text"
require_relative "pattern"

module Realizehit
  # One message of a subscription.
  class Message
    # @return [String] the payload's JSON text as it was published
    attr_reader :text
    # @return [String, nil] the position in the history of its pattern, if it has one
    attr_reader :position

    # @api private
    def initialize(text, channel, position)
      @text = text
      @channel = channel
      @position = position
    end

    # Decodes the payload when it is first called.
    #
    # @return [Object] what JSON.parse returns
    # @raise [BadPayload] if the text is not JSON
    def payload
      @payload = JSONText.parse(@text) unless defined?(@payload)
      @payload
    rescue JSON::ParserError => e # also of what is nested too deeply
      raise BadPayload, "the payload is not JSON that can be read: #{e.message[0, 200]}"
    end

    # @return [Hash{String => String}] the pattern that the message was published to, for wildcard subscriptions too
    def pattern
      @pattern ||= Pattern.parse_channel(@channel).freeze
    end

    def inspect
      "#<#{self.class} #{@channel} #{@text[0, 80].inspect}>"
    end
  end

  # Reads what stands before the payload of a message: the id of the subscription, and fields of a label.
  #
  # @api private
  module Head
    module_function

    # @param text [String] such as "3bf1d979@c=channel:CNN|kind:news&o=17"
    # @return [Array(String, String, String)] the id, the channel or nil, and the offset or nil
    # @raise [ArgumentError] if the label is malformed
    def parse(text)
      id, _, label = text.partition("@")
      channel = offset = nil
      label.split("&", -1).each do |field|
        key, equals, value = field.partition("=")
        raise ArgumentError, "the field #{field.inspect} is not key=value" if equals.empty?

        case key
        when "c" then channel = checked(value)
        when "o" then offset = value
        end
      end
      [id, channel, offset]
    end

    def checked(channel)
      Pattern.parse_channel(channel)
      channel
    end
    private_class_method :checked
  end
  private_constant :Head
end
